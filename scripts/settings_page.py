"""Write docs/settings.md: every setting of every choice.

Usage: python scripts/settings_page.py
"""

from pathlib import Path

from symrun.settings import page

if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs" / "settings.md").write_text(page(), encoding="utf-8")
