#!/bin/sh
# A virtual ECU: answers OBD-II requests for the engine speed on a CAN interface, until it is killed.
candump -L "$1,7DF:7FF" | while read -r _ _ frame; do
	case $frame in
	'7DF#02010C'*) cansend "$1" 7E8#04410C1AF8 ;;
	esac
done
