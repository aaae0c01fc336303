# Sourced with the requirement files as arguments: sets PYTHON to an interpreter that has them installed.
# FOLDSCAPE_PYTHON names one that is ready; otherwise .venv is made, and made again when the files have changed.
foldscape_python() {
    local name
    for name in python3 python3.11 python3.12; do  # asked, not looked up: a version manager's shim may stand for nothing
        "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo "$name" && return
    done
    return 1
}

if [[ -n "${FOLDSCAPE_PYTHON:-}" ]]; then
    PYTHON=$FOLDSCAPE_PYTHON
    "$PYTHON" -c '' 2>/dev/null || { echo "error: FOLDSCAPE_PYTHON=$PYTHON: no Python that runs" >&2; exit 2; }
else
    PYTHON=.venv/bin/python
    for file in "$@"; do  # requirements-dev.txt adds to requirements.txt: the stamp of one does not do for the other
        stamp=.venv/installed-$(basename "$file")
        if [[ ! -x $PYTHON || "$(cat "$stamp" 2>/dev/null)" != "$(cksum <"$file")" ]]; then
            base=$(foldscape_python) || {
                echo "error: no Python 3.11 or 3.12 found; install one, or name it in FOLDSCAPE_PYTHON" >&2
                exit 2
            }
            echo "installing $file into .venv (a few minutes, once)"
            [[ -x $PYTHON ]] || "$base" -m venv .venv
            "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$file"
            cksum <"$file" >"$stamp"
        fi
    done
fi
