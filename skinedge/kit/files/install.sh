#!/bin/sh
# Install this kit without a network. Another interpreter: PYTHON=/usr/bin/python3.12 ./install.sh
exec "${PYTHON:-python3}" "$(dirname "$0")/install.py" "$@"
