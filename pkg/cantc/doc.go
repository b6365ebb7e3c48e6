// Package cantc makes the filters at the host ends of endpoints: lists of CAN IDs, compiled to classic BPF programs, and
// the tc qdisc and filters that run them.
//
// It needs no bpf(2), no loader and no compiler: a program is an attribute of a netlink message.
//
// Kernel: net/sched/cls_bpf.c, linux/can.h, linux/filter.h, linux/pkt_cls.h.
package cantc
