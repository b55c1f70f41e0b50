"""`python -m mathgrpo` is the command `mathgrpo`."""

from mathgrpo.cli import main

main()
