// Package cantc sets, reads and deletes the tc filters of CAN devices: a classic BPF program each, and what happens to the
// frames that it matches. It makes the clsact qdisc that they need.
//
// It needs no bpf(2) and no loader: a program is an attribute of a netlink message. The programs for lists of CAN IDs are
// made by pkg/canid.
//
// Kernel: net/sched/cls_bpf.c, net/sched/sch_ingress.c, net/sched/act_api.c, linux/pkt_cls.h, linux/tc_act/.
package cantc
