"""A tunesmith command in this process, with the process's highest resident memory as JSON on the last line."""

import json
import resource
import sys

from tunesmith.cli import main

code = main(sys.argv[1:])
print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
sys.exit(code)
