from symrun.cli import main

raise SystemExit(main())
