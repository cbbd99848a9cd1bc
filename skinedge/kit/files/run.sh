#!/bin/sh
# Verify, build engines where they are built on the device, repeat the golden cases, measure; write result.json.
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -e "$here/venv/bin/python" ]; then
    echo "error: this kit is not installed yet. Type: $here/install.sh" >&2
    exit 2
fi
exec "$here/venv/bin/python" -m skinedge.kit.device "$here" "$@"
