package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
)

// parseOptions reads the flags, whose defaults may be in the environment, as vxcan-install has them there.
func parseOptions(args []string) *labeller {
	l := &labeller{poll: labelPoll}
	flags := flag.NewFlagSet("vxcan-label", flag.ExitOnError) // with status 2
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: vxcan-label [--node NAME] [--remove-on-exit] COMMAND [ARGUMENT ...]")
		flags.PrintDefaults()
	}
	removeOnExit, _ := strconv.ParseBool(os.Getenv("VXCAN_REMOVE_ON_EXIT"))
	flags.StringVar(&l.node, "node", os.Getenv("VXCAN_NODE"), "`name` of this node; the default is in VXCAN_NODE")
	flags.BoolVar(&l.removeOnExit, "remove-on-exit", removeOnExit, "remove the labels, and set none; the default is in VXCAN_REMOVE_ON_EXIT")
	version := flags.Bool("version", false, "print the version and exit")
	_ = flags.Parse(args) // ends the program where it fails
	if *version {
		fmt.Println("vxcan-label", buildVersion)
		os.Exit(0)
	}
	if l.check = flags.Args(); len(l.check) == 0 {
		flags.Usage()
		os.Exit(2)
	}
	return l
}
