"""Keep the licence that was chosen, and say what to type next.

Standard library only; no network, no installs, no git: `cruft update` runs it twice in folders of
its own.
"""

from pathlib import Path

CHOSEN = "{{ cookiecutter.license }}"
SLUG = "{{ cookiecutter.project_slug }}"

for text in sorted(Path.cwd().glob("LICENSE.*")):
    if text.name == f"LICENSE.{CHOSEN}":
        text.replace("LICENSE")
    else:
        text.unlink()

print(f"""
The project is in {SLUG}. Type next:

  cd {SLUG}
  conda env create -f environment.yml
  conda activate {SLUG}
  lab setup
  lab report 01_baseline
  lab verify reports/01_baseline

Without conda: see the README.
""")
