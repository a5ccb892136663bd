"""A tunesmith command in this process, with its highest resident memory and its CPU time as JSON on the last line."""

import json
import resource
import sys

from tunesmith.cli import main

code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"peak_mb": used.ru_maxrss // 1024, "cpu_seconds": used.ru_utime + used.ru_stime}))
sys.exit(code)
