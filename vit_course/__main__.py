"`python -m vit_course`: the commands."
import sys

from .tools.commands import main

sys.exit(main())
