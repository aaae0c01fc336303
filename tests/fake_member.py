"""What a member is to the scheduler, without a network: `fake_member.py FOLDER NAME STEPS STEP_S [FAULT]`.

Takes its steps one by one, keeps `NAME.last` up to date, goes on from it, ends with `NAME.result`, whose bytes depend
on every step; stops at a step boundary when asked; `NAME.diary` has a line per event. Faults, at the first start only
unless they say always: crash, crash-always, kill, refuse-always, memory (CUDA's, until batches are split in 4).
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

folder, name, steps, step_s = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
fault = sys.argv[5] if len(sys.argv) > 5 and "=" not in sys.argv[5] else ""
last, diary = folder / f"{name}.last", folder / f"{name}.diary"
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))


def note(event: str) -> None:
    with open(diary, "a") as file:
        file.write(json.dumps([event, time.time(), os.getpid(), os.environ.get("OMP_NUM_THREADS")]) + "\n")


folder.mkdir(parents=True, exist_ok=True)
first = not diary.exists()
with open(folder / f"{name}.held", "w") as held:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two of one member at a time would be a bug of the scheduler
    state = json.loads(last.read_text()) if last.exists() else {"step": 0, "sum": name}
    note(f"start at {state['step']}")
    while state["step"] < steps:
        time.sleep(step_s)
        state = {"step": state["step"] + 1, "sum": hashlib.sha256(state["sum"].encode()).hexdigest()}
        last.with_suffix(".part").write_text(json.dumps(state))
        last.with_suffix(".part").replace(last)
        if asked:
            note(f"stop at {state['step']}")
            sys.exit(143)
        if fault == "refuse-always":
            print("error: this folder is not a data set", file=sys.stderr)
            sys.exit(2)
        if fault == "crash-always" or (fault == "crash" and first):
            raise RuntimeError("the cat has stepped on the cable")
        if fault == "memory" and "jobs.split_batch=4" not in sys.argv:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if fault == "kill" and first:
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{name}.result").write_text(state["sum"])
    note("end")
