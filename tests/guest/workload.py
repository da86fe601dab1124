# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest does that must notice nothing of what is done to its VM meanwhile."""

# Files in memory are copied, compressed and compared with what they were, and so is a disk; a second
# process writes the whole time, and a clock that ever goes back is told.
_WORK = """
dd if=/dev/urandom of=/tmp/a bs=1M count=%(mib)d 2>/dev/null
sum=$(sha256sum </tmp/a); bad=0; pass=0; before=0
(while :; do cp /tmp/a /tmp/busy; done) &
while [ $pass -lt %(passes)d ]; do
  cp /tmp/a /tmp/b; gzip -1c /tmp/b >/tmp/c; rm /tmp/b
  [ "$(gunzip -c /tmp/c | sha256sum)" = "$sum" ] || bad=$((bad + 1))
  [ "$(sha256sum </tmp/a)" = "$sum" ] || bad=$((bad + 1))
  if [ -b /dev/vda ]; then
    dd if=/tmp/a of=/dev/vda bs=64k seek=$pass count=4 conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(dd if=/dev/vda bs=64k skip=$pass count=4 2>/dev/null | sha256sum)" = \\
      "$(dd if=/tmp/a bs=64k count=4 2>/dev/null | sha256sum)" ] || bad=$((bad + 1))
  fi
  now=$(cut -d. -f1 /proc/uptime); [ $now -ge $before ] || bad=$((bad + 1)); before=$now
  pass=$((pass + 1)); echo pass $pass: $bad bad
done
kill $!
dmesg | grep -E 'BUG|Oops|Call Trace|stall|soft lockup' && bad=$((bad + 1))
exit $bad
"""


def work(passes: int, mib: int) -> str:
    """Return shell that works on *mib* MiB of files, and says "pass N: M bad" after each pass."""
    return _WORK % {"passes": passes, "mib": mib}
