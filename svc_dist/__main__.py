"""``python -m svc_dist`` is ``svc-dist``."""

from svc_dist.cli.process import main

if __name__ == "__main__":
    main()
