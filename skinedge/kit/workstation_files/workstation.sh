#!/bin/sh
# Install the workstation without a network: ./workstation.sh install. Another interpreter: PYTHON=/usr/bin/python3.12 ./workstation.sh install
exec "${PYTHON:-python3}" "$(dirname "$0")/workstation.pyz" "$@"
