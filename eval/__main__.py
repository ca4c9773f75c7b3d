"""The evaluation process: `python -m eval REQUEST.json RESPONSE.json`.

A process of its own, so that it may run under another environment's Python and gives back all its memory when it ends.
Exit code 2 with one line on stderr for a wrong request or a place that cannot be written to, 1 with a traceback for
anything else.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from eval.errors import EvaluationError
from eval.request import check_paths, parse_request, write_json
from train.process import end_with_parent, say_error


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m eval REQUEST.json RESPONSE.json", file=sys.stderr)
        return 2
    end_with_parent()
    source, destination = map(Path, arguments)
    try:
        request = parse_request(source.read_text(encoding="utf-8"), origin=str(source))
        check_paths(request)
        from eval.scoring import evaluate

        response = evaluate(request, destination.parent, say=lambda line: print(line, flush=True))
    except (EvaluationError, FileNotFoundError) as error:
        say_error(error)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        # starting again would fail at the same place
        print(f"error: {error}; what was finished before is kept", file=sys.stderr)
        return 2
    write_json(response, destination)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
