"""``python -m svc_dist`` is ``svc-dist``."""

from svc_dist.cli.entry import main

if __name__ == "__main__":
    main()
