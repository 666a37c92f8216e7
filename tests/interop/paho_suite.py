"""Runs one module of Eclipse Paho's ``interoperability`` folder: argv is the module and the port; results are lines.

The modules set what they need only when run as programs, and then mistake our options for unittest's. So
they are imported, told where the broker is, and run test by test. (`test_flow_control2` never ends by itself
unless the broker ends it, hence the deadline.)
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import sys
import unittest
from types import ModuleType, TracebackType
from typing import Any

DEADLINE_S = 400


def aim(module: ModuleType, port: int) -> None:
    """What the module would have set for itself."""
    prefix = "client_test5/" if module.__name__.endswith("5") else ""
    given: dict[str, Any] = {
        "topic_prefix": prefix,
        "topics": [prefix + topic for topic in ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")],
        "wildtopics": [prefix + t for t in ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")],
        "nosubscribe_topics": ("test/nosubscribe",),
        "host": "127.0.0.1",
        "port": port,
    }
    vars(module).update(given)


class Lines(unittest.TextTestResult):
    """Each test's outcome as a line of its own."""

    def addSuccess(self, test: unittest.TestCase) -> None:
        print("passed", test.id().rpartition(".")[2], flush=True)

    def addFailure(
        self,
        test: unittest.TestCase,
        err: tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None],
    ) -> None:
        super().addFailure(test, err)
        print("failed", test.id().rpartition(".")[2], flush=True)

    addError = addFailure


def main() -> None:
    name, port = sys.argv[1], int(sys.argv[2])
    sys.argv = sys.argv[:1]
    sys.path.insert(0, os.getcwd())
    logging.getLogger().setLevel(logging.ERROR)
    module = importlib.import_module(name)
    aim(module, port)
    faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
    suite = unittest.TestLoader().loadTestsFromTestCase(module.Test)
    unittest.TextTestRunner(resultclass=Lines, verbosity=0).run(suite)
    sys.stdout.flush()
    # Its clients' threads do not end.
    os._exit(0)


main()
