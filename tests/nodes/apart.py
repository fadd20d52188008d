"""The first process in new namespaces: `python -m tests.nodes.apart MODULE FOLDER` calls the
module's `main` with arguments and result in two JSON files."""

import importlib
import json
import sys
from pathlib import Path

module, folder = sys.argv[1], Path(sys.argv[2])
result = importlib.import_module(module).main(json.loads((folder / "arguments.json").read_text()))
(folder / "result.json").write_text(json.dumps(result))
