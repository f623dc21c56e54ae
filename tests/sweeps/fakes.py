"""Members whose command is a small script, which starts at once."""

import sys

from symrun.sweeps import member as member_module
from symrun.sweeps.member import Member

SCRIPT = """
import json, os, pathlib, signal, sys, time
name, what = sys.argv[1:3]
note = pathlib.Path(name + ".json")
began = time.time()
def stopped(*_):
    sys.stderr.write("symrun: stopped, and saved\\n")
    sys.exit(75)
signal.signal(signal.SIGTERM, stopped)
pathlib.Path(name + ".began").touch()
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "fails":
    sys.stderr.write("symrun: warning: one\\nsymrun: no such data\\nafterwards\\n")
    sys.exit(2)
time.sleep(float(what))
seen = [os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
note.write_text(json.dumps([began, time.time(), *seen, sys.argv[3:]]))
print("runs/" + name)
"""


def fake_members(monkeypatch, folder, *whats, on_gpu=False):
    """One member for each of `whats`: "killed", "fails", or the seconds it takes."""
    monkeypatch.chdir(folder)
    (folder / ".sweep").mkdir()
    (folder / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(member_module, "PROGRAM", (sys.executable, "-S", "script.py"))
    return [
        Member(f"member {place}", (f"m{place}", what), folder / ".sweep", f"m{place}", on_gpu)
        for place, what in enumerate(whats)
    ]
