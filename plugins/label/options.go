package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
)

// parseOptions reads the flags, whose defaults may be in the environment, as vxcan-install has them there.
func parseOptions(args []string) *labeller {
	l := &labeller{}
	flags := flag.NewFlagSet("vxcan-label", flag.ExitOnError) // with status 2
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: vxcan-label [--node NAME] [--entry FILE] [--remove-on-exit] [-- COMMAND [ARGUMENT ...]]")
		flags.PrintDefaults()
	}
	removeOnExit, _ := strconv.ParseBool(os.Getenv("VXCAN_REMOVE_ON_EXIT"))
	flags.StringVar(&l.node, "node", os.Getenv("VXCAN_NODE"), "`name` of this node; the default is in VXCAN_NODE")
	flags.StringVar(&l.entry, "entry", "", "`file` with the entry of vxcan in the pod network; NODE.json beside it goes before it")
	flags.BoolVar(&l.removeOnExit, "remove-on-exit", removeOnExit, "remove the labels when stopped by a signal; the default is in VXCAN_REMOVE_ON_EXIT")
	version := flags.Bool("version", false, "print the version and exit")
	_ = flags.Parse(args) // ends the program where it fails
	if *version {
		fmt.Println("vxcan-label", buildVersion)
		os.Exit(0)
	}
	l.ready = flags.Args()
	return l
}
