#!/usr/bin/env bash
# The machine image's recipe: turns an Amazon Linux 2023 with NVIDIA's driver and EFA (the Deep Learning Base AMI, or a container of the
# kind) into one that runs memlm's nodes. Runs once, as root, where packages can be had; the nodes themselves never install anything.
#
# bash install.sh requirements.lock rds-bundle.pem
set -euo pipefail
lock=$(readlink -f "$1") bundle=$(readlink -f "$2")
prefix=/opt/memlm home=/var/lib/memlm

dnf install --assumeyes --quiet python3.11 python3.11-devel gcc-c++ git-core util-linux procps-ng openssl rsyslog shadow-utils
if [ -d /run/systemd/system ]; then # a machine, no container
  dnf install --assumeyes --quiet amazon-cloudwatch-agent
  systemctl enable rsyslog # the kernel's log, with the GPUs' faults, in /var/log/messages
fi
id memlm > /dev/null 2>&1 || useradd --system --home-dir "$home" --shell /usr/sbin/nologin memlm
install -d -m 0700 -o memlm -g memlm "$home"

python3.11 -m venv "$prefix"
pip() { "$prefix/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
# Every file is one whose digest stands in the lock. What builds DeepSpeed comes first, and it is built with just that.
builders=$(mktemp)
"$prefix/bin/python" - "$lock" ninja numpy packaging psutil pydantic setuptools wheel > "$builders" <<'PYTHON'
import re
import sys

entries = re.split(r"\n(?=[A-Za-z0-9])", open(sys.argv[1]).read())
print("\n".join(entry for entry in entries if re.match(r"[A-Za-z0-9._-]+", entry)[0].lower() in sys.argv[2:]))
PYTHON
pip install --require-hashes --no-deps --requirement "$builders"
pip install --require-hashes --no-deps --no-build-isolation --requirement "$lock"
pip check
rm -f "$builders"
install -m 0644 "$bundle" "$prefix/rds-bundle.pem"

"$prefix/bin/python" - <<'PYTHON'
import boto3, deepspeed, mlflow, psycopg, ray, torch, transformers

print("ray", ray.__version__, "torch", torch.__version__, "cuda", torch.version.cuda, "deepspeed", deepspeed.__version__, "mlflow", mlflow.__version__)
PYTHON
"$prefix/bin/python" -m compileall -q "$prefix/lib" || true # the nodes' user cannot write there
pip cache purge > /dev/null 2>&1 || true
