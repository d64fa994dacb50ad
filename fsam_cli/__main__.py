"""`python -m fsam_cli`, where there is no `fsam` on the path."""

from fsam_cli.app import main

main()
