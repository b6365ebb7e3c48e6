#!/bin/sh
# A tester: asks for the engine speed and prints the answer. The engine may still be starting: asks for 10 s.
for _ in 1 2 3 4 5 6 7 8 9 10; do
	(sleep 0.3; cansend "$1" 7DF#02010C) & # when candump listens
	answer=$(candump -L -n 1 -T 1000 "$1,7E8:7FF" | cut -d ' ' -f 3)
	[ -z "$answer" ] || { echo "$answer"; exit; }
done
echo "no answer on $1" >&2
exit 1
