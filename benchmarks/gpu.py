"""Everything that only a GPU can show, as one command: values, speed, the neutral start, a study, the GPU's tests.

    python benchmarks/gpu.py [--parts values,speed,...] [--minutes 7] [--out runs/gpu] [--only se,das] [--workers N]
        [--small] [--device cpu]

The parts, each of which goes on where something fails:

    values     every operator, and every mechanism in eval and train mode, in float32 (no TF32) against float64 on the
               CPU: result and all gradients, twice, with channels_last; bfloat16 and float16 autocast are finite
    speed      forward and backward by turns, CUDA events: mechanisms beside those of reference_implementations.py,
               deformable convolution beside torchvision's, attention beside SDPA; peak memory
    neutral    12 hosts × all mechanisms that are plugged: outputs, gradients and buffers bit for bit as without
    compile    some mechanisms as one graph (torch.compile, fullgraph)
    compare    ``saccade compare`` on digits through the command line
    tests      benchmarks/tests/test_cuda.py

Units run in processes of their own, some at a time but where time is measured: one that breaks the CUDA context, dies
or hangs is named, and the rest goes on in a new process. ``--out`` gets rows.jsonl (a line a unit, as it ends),
gpu.json, gpu.md, gpu.log, compare-results.json and compare-table.md. ``--minutes`` are shared by the parts; what is not
reached is counted. ``--small`` is for trying the script itself, on the CPU too. Needs no network. Exit code 1 if
anything is off or not reached, 0 else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

__all__ = ["PARTS", "Runner", "main", "units"]

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parents[1]
TESTS = "benchmarks/tests/test_cuda.py"
SHARES = {"values": 3.0, "speed": 5.0, "neutral": 4.0, "compile": 2.0, "compare": 3.0, "tests": 1.0}
"""Of the time that is left, the part of each."""
PARTS = tuple(SHARES)
STALL = 150.0
"""A unit that takes more seconds hangs."""
BROKEN = 3
"""Exit code of a process whose CUDA context is broken."""
SMALL = ("se", "cbam", "das", "self_attention", "sk", "gsop")
GROUP = 12
"""Units of values that share a process."""

Row = dict[str, Any]


class Unit(NamedTuple):
    """What one row is about."""

    part: str
    name: str
    detail: str


def units(part: str, only: Sequence[str], small: bool) -> list[list[Unit]]:
    """The units of a part in groups, each of which shares a process."""
    import saccade
    from gpu_checks import COMPILED, NEUTRAL_HOSTS
    from gpu_operators import OPERATORS
    from gpu_speed import OPERATOR_CASES, SHAPES
    from gpu_speed import SMALL as SMALL_MAP

    names = list(only) or list(SMALL if small else saccade.list_mechanisms())
    # The hosts have no skips.
    plugged = [n for n in names if n in saccade.list_mechanisms("plug") and "skip" not in saccade.spec(n).needs]
    if part == "values":
        found = [Unit(part, name, "operator") for name in OPERATORS]
        found += [Unit(part, name, mode) for name in names for mode in ("eval", "train")]
        each = len(found) if small else GROUP
        return [found[start : start + each] for start in range(0, len(found), each)]
    if part == "speed":
        shapes = (SMALL_MAP,) if small else SHAPES
        found = [Unit(part, name, shape) for name in names for shape in shapes]
        cases = {"deform_conv2d": ("1×8×9×9",), "attention": ("1×20×8",)} if small else OPERATOR_CASES
        return [[Unit(part, f"op {name}", case) for name, all_ in cases.items() for case in all_] + found]
    if part == "neutral":
        hosts = ("torchvision resnet18", "timm lcnet_100") if small else NEUTRAL_HOSTS
        return [[Unit(part, host, name) for name in plugged] for host in hosts]
    if part == "compile":
        return [[Unit(part, name, "")] for name in (COMPILED[:1] if small else COMPILED)]
    return [[Unit(part, part, "")]]


# -- in a process of its own --------------------------------------------------------------------------------------


def work(given: Row) -> int:
    """Run the units of ``given`` and write a line a unit on the standard output, which nothing else reaches."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import logging
    import warnings

    import torch

    import gpu_checks
    import gpu_speed

    logging.getLogger("saccade").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    gpu_checks.exact_arithmetic()
    torch.set_num_threads(given["threads"])
    run: dict[str, Callable[[str, str, str, bool], Row]] = {
        "values": gpu_checks.values, "neutral": gpu_checks.neutral, "compile": gpu_checks.compiled,
        "speed": gpu_speed.mechanism_speed,
    }  # fmt: skip
    for part, name, detail in given["units"]:
        begun = time.perf_counter()
        row: Row = {"part": part, "name": name, "detail": detail}
        try:
            if name.startswith("op "):
                row |= gpu_speed.operator_speed(name[3:], detail, given["device"], given["small"])
            else:
                row |= run[part](name, detail, given["device"], given["small"])
        except Exception as error:  # whatever a device does not know is a row, not the end
            row |= {"status": "error", "note": f"{type(error).__name__}: {str(error)[:400]}"}
            row["trace"] = traceback.format_exc().splitlines()[-12:]
        row["seconds"] = round(time.perf_counter() - begun, 3)
        print(json.dumps(row, ensure_ascii=False), file=lines, flush=True)
        if given["device"].startswith("cuda") and not _sound(given["device"]):
            return BROKEN
    return 0


def _sound(device: str) -> bool:
    """Whether the CUDA context still computes."""
    import torch

    try:
        torch.cuda.synchronize()
        return float(torch.ones(4, device=device).sum()) == 4.0
    except Exception:
        return False


# -- the processes and their rows ---------------------------------------------------------------------------------


class Runner:
    """Runs groups of units in processes and keeps their rows, on disk as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self.begun = time.monotonic()
        self.end = self.begun + 60 * options.minutes
        self._lock = threading.Lock()
        self._lines = (self.out / "rows.jsonl").open("w", encoding="utf-8")
        self._log = (self.out / "gpu.log").open("w", encoding="utf-8")

    def close(self) -> None:
        """Close the files of rows and log."""
        self._lines.close()
        self._log.close()

    def add(self, row: Row) -> None:
        """Keep a row, on disk at once."""
        with self._lock:
            self.rows.append(row)
            self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._lines.flush()
            if row["status"] not in ("ok", "refused", "skipped"):
                print(f"  {row['name']} {row['detail']}: {row['status']}, {row['note'][:200]}", flush=True)

    def environment(self, threads: int) -> dict[str, str]:
        """Of a child: our sources first, offline, so many threads."""
        own = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        own["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        own["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return os.environ | own

    def group(self, group: Sequence[Unit], deadline: float, threads: int) -> None:
        """Run the units of a group; a process that ends early is followed by another for the rest."""
        pending = list(group)
        while pending and time.monotonic() < deadline:
            came, how = self._process(pending, deadline, threads)
            pending = pending[came:]
            if pending and time.monotonic() < deadline and how != f"code {BROKEN}":
                part, name, detail = pending.pop(0)
                self.add(
                    {
                        "part": part,
                        "name": name,
                        "detail": detail,
                        "status": "error",
                        "note": f"the process ended: {how}",
                    }
                )
        for part, name, detail in pending:
            self.add({"part": part, "name": name, "detail": detail, "status": "not reached", "note": "out of time"})

    def _process(self, pending: Sequence[Unit], deadline: float, threads: int) -> tuple[int, str]:
        """How many rows a process gave, and how it ended."""
        options = self.options
        given = {"units": pending, "device": options.device, "small": options.small, "threads": threads}
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, encoding="utf-8", cwd=ROOT, env=self.environment(threads), start_new_session=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(given))
            child.stdin.close()
        except BrokenPipeError:
            pass  # it is over already; its code says so
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reader.start()
        came, how = 0, ""
        while not how:
            try:
                line = lines.get(timeout=max(0.1, min(STALL, deadline - time.monotonic())))
            except queue.Empty:
                how = "out of time" if time.monotonic() >= deadline else f"no row for {STALL:.0f} s"
                break
            if line is None:
                how = f"code {child.wait()}"
            else:
                self.add(json.loads(line))
                came += 1
        _stop(child)
        reader.join(5)
        child.stdout.close()
        return came, how

    def command(self, part: str, command: Sequence[str], deadline: float) -> None:
        """A part that is a command: its row holds the exit code and the end of what it printed."""
        begun = time.monotonic()
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
            cwd=ROOT, env=self.environment(1), start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = child.communicate(timeout=max(1.0, deadline - time.monotonic()))
            note = "" if child.returncode == 0 else f"exit code {child.returncode}"
        except subprocess.TimeoutExpired:
            _stop(child)
            output, note = child.communicate()[0], "out of time"
        self._log.write(output)
        self._log.flush()
        row: Row = {"part": part, "name": part, "detail": "", "status": "off" if note else "ok", "note": note}
        shown = [line for line in output.splitlines() if line.strip()][-25:]
        self.add(row | {"seconds": round(time.monotonic() - begun, 1), "command": shlex.join(command), "output": shown})


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _stop(child: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


# -- the whole ----------------------------------------------------------------------------------------------------


def _command(part: str, options: argparse.Namespace, study: str) -> list[str]:
    """The command that is the part "compare" or "tests"."""
    if part == "tests":
        return [sys.executable, "-m", "pytest", TESTS, "-q", "-n", "0", "-rs", "-W", "default"]
    small = ["training.epochs=1", "data.train_images=200", "data.test_images=100"]
    settings = small if options.small else ["training.epochs=2"]
    return [
        sys.executable, "-m", "saccade", "compare", "--attention", "none,se" if options.small else "none,se,das",
        "--seeds", "1" if options.small else "2", "--device", options.device, "--out", study,
        *(word for setting in settings for word in ("--set", setting)),
    ]  # fmt: skip


def _shared(parts: Sequence[str], now: float, end: float) -> float:
    """When the first of these parts has to end."""
    return now + (end - now) * SHARES[parts[0]] / sum(SHARES[part] for part in parts)


def _driver() -> str | None:
    """The card, its driver and its memory, as nvidia-smi says."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def run(options: argparse.Namespace, command: str) -> list[Row]:
    """All parts one after another; the page and the JSON are written anew after each."""
    from gpu_page import write
    from timing import machine

    runner = Runner(options)
    facts = machine(1, options.device) | {"driver": _driver(), "command": command, "small": options.small}
    print(f"{facts['accelerator'] or facts['cpu']}, torch {facts['packages']['torch']}, {options.out}", flush=True)
    try:
        for number, part in enumerate(options.parts):
            begun = time.monotonic()
            deadline = _shared(options.parts[number:], begun, runner.end)
            before = len(runner.rows)
            try:
                if part in ("compare", "tests"):
                    with tempfile.TemporaryDirectory() as study:
                        runner.command(part, _command(part, options, f"{study}/digits"), deadline)
                        for result in ("results.json", "table.md"):
                            if (Path(study) / "digits" / result).exists():
                                shutil.copy(Path(study) / "digits" / result, options.out / f"compare-{result}")
                else:
                    groups = units(part, options.only, options.small)
                    together = 1 if part == "speed" else options.workers
                    threads = 1 if together > 1 else max(1, (os.cpu_count() or 1) // 2)
                    with ThreadPoolExecutor(together) as pool:
                        list(pool.map(lambda group: runner.group(group, deadline, threads), groups))  # noqa: B023
            except Exception as error:  # a fault of this script in one part is not the end of the others
                trace = traceback.format_exc().splitlines()[-12:]
                note = f"{type(error).__name__}: {error}"
                runner.add({"part": part, "name": part, "detail": "", "status": "error", "note": note, "trace": trace})
            found = runner.rows[before:]
            good = sum(row["status"] == "ok" for row in found)
            print(f"{part}: {good} of {len(found)} ok in {time.monotonic() - begun:.0f} s", flush=True)
            write(options.out, facts, runner.rows)
    finally:
        runner.close()
    return runner.rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=7.0, help="time for all parts together (default 7)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results (default runs/gpu)")
    parser.add_argument("--only", default="", help="mechanisms, by commas (default all)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default cuda)")
    parser.add_argument("--workers", type=int, default=0, help="processes at a time where nothing is timed")
    parser.add_argument("--small", action="store_true", help="tiny maps, few mechanisms: a trial of the script")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(json.load(sys.stdin))
    options.parts = options.parts.split(",")
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
    import saccade
    from saccade.training.environment import choose_device

    options.only = [name for name in options.only.split(",") if name]
    for name in options.only:
        if name not in saccade.list_mechanisms():
            parser.error(f"there is no mechanism {name!r}")
    try:
        choose_device(options.device)
    except saccade.UserError as error:
        parser.error(str(error))
    options.out = options.out.resolve()
    options.workers = options.workers or max(1, min(8, (os.cpu_count() or 1) // 2))
    rows = run(options, shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]))
    return 1 if any(row["status"] in ("off", "error", "not reached") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
