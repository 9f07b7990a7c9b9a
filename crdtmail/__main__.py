"""`python -m crdtmail`"""

import sys

from crdtmail.cli import main

sys.exit(main())
