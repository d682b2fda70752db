"""Install one of the extras of pyproject.toml into the running environment, without building the package."""

import subprocess
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    requirements = tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *requirements]))
