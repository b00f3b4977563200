"""A Python that has imported the large packages once, and runs each script in a fork of itself.

Starting Python with PyTorch, timm and Lightning takes five seconds of one core, a fork none. Nothing of this package is
imported beforehand: a script sees what a new Python would, and fails on whatever it forgot to import.
"""

import atexit
import importlib
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path

import numpy as np

PACKAGES = ("torch", "torchvision", "timm", "lightning.pytorch")


class WarmPython:
    """The process that forks; it is started by the first script, and ended by ``close``."""

    def __init__(self):
        self._process = None

    def run(self, words, folder, *, filters=(), text=""):
        """Run ``python -W filter… words…`` in ``folder`` with ``text`` as its input; return a CompletedProcess.

        ``words`` begin with ``-m`` and a module, ``-c`` and code, ``-`` for the input, or a script.
        """
        if self._process is None:
            command = [sys.executable, "-W", "ignore", __file__]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with tempfile.TemporaryDirectory() as home:
            files = [str(Path(home, name)) for name in ("stdin", "stdout", "stderr")]
            Path(files[0]).write_text(text, encoding="utf-8")
            request = {
                "words": [str(word) for word in words], "folder": str(folder), "filters": filters, "files": files,
                "environment": dict(os.environ),
            }  # fmt: skip
            print(json.dumps(request), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            printed, said = (Path(file).read_text(encoding="utf-8") for file in files[1:])
        return subprocess.CompletedProcess(words, code, printed, said)

    def close(self):
        if self._process is not None:
            with self._process:
                self._process.stdin.close()


def _serve():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a package prints when it is imported
    for name in PACKAGES:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(**request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _run(words, folder, filters, files, environment):
    """Become the Python of one request; never returns."""
    for stream, (file, mode) in enumerate(zip(files, ("r", "w", "w"), strict=True)):
        with open(file, mode) as opened:
            os.dup2(opened.fileno(), stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (for as long as Python runs)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()  # or all scripts would draw the same numbers, and look reproducible
    np.random.seed()
    sys.warnoptions[:] = filters
    warnings.resetwarnings()
    warnings._processoptions(filters)
    code = 0
    try:
        _execute(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _execute(words):
    first, *rest = words
    own = os.path.dirname(__file__)
    sys.path[:] = [path for path in sys.path if path != own]
    if first == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first in ("-c", "-"):
        sys.path.insert(0, "")
        sys.argv = [first, *rest[1:]]
        source = rest[0] if first == "-c" else sys.stdin.read()
        exec(compile(source, "<string>" if first == "-c" else "<stdin>", "exec"), _new_main())
    else:
        script = os.path.abspath(first)
        sys.path.insert(0, os.path.dirname(script))
        sys.argv = [first, *rest]
        with open(script, encoding="utf-8") as source:
            exec(compile(source.read(), script, "exec"), _new_main(script))


def _new_main(file=None):
    main = type(sys)("__main__")
    if file is not None:
        main.__file__ = file
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    return vars(main)


if __name__ == "__main__":
    _serve()
