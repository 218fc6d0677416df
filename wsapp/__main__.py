"""`python -m wsapp` is the `wsapp` command."""

from wsapp.cli import main

if __name__ == "__main__":
    main()
