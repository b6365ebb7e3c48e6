package underlay

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Numbers from linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, nf_tables_compat.h and xt_CT.h.
const (
	subsystem   = 10 // NFNL_SUBSYS_NFTABLES
	msgGetTable = 1  // NFT_MSG_GETTABLE
	msgGetChain = 4  // NFT_MSG_GETCHAIN
	msgGetRule  = 7  // NFT_MSG_GETRULE
	msgGetSet   = 13 // NFT_MSG_GETSETELEM

	tableName, tableFlags = 1, 2 // NFTA_TABLE_*
	tableDormant          = 1    // NFT_TABLE_F_DORMANT

	chainTable, chainName, chainHook, chainPolicy = 1, 3, 4, 5 // NFTA_CHAIN_*
	hookNumber, hookPriority                      = 1, 2       // NFTA_HOOK_*

	ruleTable, ruleChain, ruleExpressions = 1, 2, 4 // NFTA_RULE_*
	listElement                           = 1       // NFTA_LIST_ELEM
	exprName, exprData                    = 1, 2    // NFTA_EXPR_*

	metaDReg, metaKey                                = 1, 2       // NFTA_META_*
	payloadDReg, payloadBase, payloadOffset, payload = 1, 2, 3, 4 // NFTA_PAYLOAD_*
	cmpSReg, cmpOp, cmpData                          = 1, 2, 3    // NFTA_CMP_*
	cmpEqual, cmpNotEqual                            = 0, 1       // NFT_CMP_*
	immediateDReg, immediateData                     = 1, 2       // NFTA_IMMEDIATE_*
	dataValue, dataVerdict                           = 1, 2       // NFTA_DATA_*
	verdictCode, verdictChain                        = 1, 2       // NFTA_VERDICT_*
	lookupSet, lookupSReg, lookupFlags               = 1, 2, 5    // NFTA_LOOKUP_*
	lookupNot                                        = 1          // NFT_LOOKUP_F_INV
	setTable, setName, setElements                   = 1, 2, 3    // NFTA_SET_ELEM_LIST_*
	elementKey, elementFlags, elementTimeout         = 1, 3, 4    // NFTA_SET_ELEM_*
	targetName, targetInfo                           = 1, 3       // NFTA_TARGET_*
	ctNoTrack                                        = 1          // XT_CT_NOTRACK
)

// number reads an attribute in network byte order.
func number(kind uint16, value []byte) (uint32, error) {
	if len(value) != 4 {
		return 0, fmt.Errorf("attribute %d: %d bytes, want 4", kind, len(value))
	}
	return binary.BigEndian.Uint32(value), nil
}

// numbers reads some attributes in network byte order.
func numbers(b []byte, to map[uint16]*uint32) error {
	return rtnl.Attrs(b, func(kind uint16, value []byte) (err error) {
		if n := to[kind]; n != nil {
			*n, err = number(kind, value)
		}
		return err
	})
}

type table struct {
	name    string
	dormant bool // its chains do nothing
}

func unmarshalTable(b []byte) (t table, err error) {
	var flags uint32
	err = rtnl.Attrs(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case tableName:
			t.name = unix.ByteSliceToString(value)
		case tableFlags:
			flags, err = number(kind, value)
		}
		return err
	})
	t.dormant = flags&tableDormant != 0
	return t, err
}

func unmarshalChain(b []byte) (c chain, prio int32, err error) {
	err = rtnl.Attrs(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case chainTable:
			c.table = unix.ByteSliceToString(value)
		case chainName:
			c.name = unix.ByteSliceToString(value)
		case chainHook:
			var p uint32
			c.base = true
			err = numbers(value, map[uint16]*uint32{hookNumber: &c.hook, hookPriority: &p})
			prio = int32(p)
		case chainPolicy:
			var policy uint32
			policy, err = number(kind, value)
			c.drops = policy == verdictDrop
		}
		return err
	})
	return c, prio, err
}

func unmarshalRule(b []byte) (r rule, table, chain string, err error) {
	err = rtnl.Attrs(b, func(kind uint16, value []byte) error {
		switch kind {
		case ruleTable:
			table = unix.ByteSliceToString(value)
		case ruleChain:
			chain = unix.ByteSliceToString(value)
		case ruleExpressions:
			return rtnl.Attrs(value, func(kind uint16, value []byte) error {
				if kind != listElement {
					return nil
				}
				e, err := unmarshalExpression(value)
				r = append(r, e)
				return err
			})
		}
		return nil
	})
	return r, table, chain, err
}

func unmarshalExpression(b []byte) (e expression, err error) {
	var data []byte
	err = rtnl.Attrs(b, func(kind uint16, value []byte) error {
		switch kind {
		case exprName:
			e.kind = unix.ByteSliceToString(value)
		case exprData:
			data = value
		}
		return nil
	})
	if err != nil {
		return e, err
	}
	switch e.kind {
	case "counter", "log":
		e.kind = ""
	case "meta":
		err = numbers(data, map[uint16]*uint32{metaDReg: &e.reg, metaKey: &e.key})
	case "payload":
		err = numbers(data, map[uint16]*uint32{payloadDReg: &e.reg, payloadBase: &e.base, payloadOffset: &e.offset, payload: &e.size})
	case "cmp":
		err = e.unmarshalCmp(data)
	case "lookup":
		err = e.unmarshalLookup(data)
	case "immediate":
		err = e.unmarshalImmediate(data)
	case "target":
		err = e.unmarshalTarget(data)
	}
	return e, err
}

func (e *expression) unmarshalCmp(b []byte) error {
	var op uint32
	err := rtnl.Attrs(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case cmpSReg:
			e.reg, err = number(kind, value)
		case cmpOp:
			op, err = number(kind, value)
		case cmpData:
			err = rtnl.Attrs(value, func(kind uint16, value []byte) error {
				if kind == dataValue {
					e.value = value
				}
				return nil
			})
		}
		return err
	})
	if e.not = op == cmpNotEqual; op != cmpEqual && op != cmpNotEqual {
		e.kind = "greater or less"
	}
	return err
}

func (e *expression) unmarshalLookup(b []byte) error {
	var flags uint32
	err := rtnl.Attrs(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case lookupSet:
			e.set = unix.ByteSliceToString(value)
		case lookupSReg:
			e.reg, err = number(kind, value)
		case lookupFlags:
			flags, err = number(kind, value)
		}
		return err
	})
	e.not = flags&lookupNot != 0
	return err
}

// unmarshalElements reads the elements of a set. It is not plain where some are ranges, or go by themselves.
func unmarshalElements(b []byte) (keys [][]byte, plain bool, err error) {
	plain = true
	err = rtnl.Attrs(b, func(kind uint16, value []byte) error {
		if kind != setElements {
			return nil
		}
		return rtnl.Attrs(value, func(_ uint16, value []byte) error {
			return rtnl.Attrs(value, func(kind uint16, value []byte) error {
				switch kind {
				case elementFlags, elementTimeout:
					plain = false
				case elementKey:
					return rtnl.Attrs(value, func(kind uint16, value []byte) error {
						if kind == dataValue {
							keys = append(keys, value)
						}
						return nil
					})
				}
				return nil
			})
		})
	})
	return keys, plain, err
}

// unmarshalImmediate reads a verdict. A value for a register is not known then.
func (e *expression) unmarshalImmediate(b []byte) error {
	verdict := false
	err := rtnl.Attrs(b, func(kind uint16, value []byte) (err error) {
		switch kind {
		case immediateDReg:
			e.reg, err = number(kind, value)
		case immediateData:
			err = rtnl.Attrs(value, func(kind uint16, value []byte) error {
				if kind != dataVerdict {
					return nil
				}
				verdict = true
				return rtnl.Attrs(value, func(kind uint16, value []byte) error {
					switch kind {
					case verdictCode:
						code, err := number(kind, value)
						e.verdict = int32(code)
						return err
					case verdictChain:
						e.chain = unix.ByteSliceToString(value)
					}
					return nil
				})
			})
		}
		return err
	})
	if !verdict {
		e.kind = "value"
	}
	return err
}

// unmarshalTarget reads a target of iptables. Of those that iptables has no expression for, CT --notrack alone matters
// (struct xt_ct_target_info_v1, which begins with its flags). Others may end a packet's way.
func (e *expression) unmarshalTarget(b []byte) error {
	name, info := "", []byte(nil)
	err := rtnl.Attrs(b, func(kind uint16, value []byte) error {
		switch kind {
		case targetName:
			name = unix.ByteSliceToString(value)
		case targetInfo:
			info = value
		}
		return nil
	})
	*e = targetOf(name, info)
	return err
}

// targetOf is what a target of iptables does.
func targetOf(name string, info []byte) expression {
	switch {
	case name == "CT" && len(info) >= 2 && binary.NativeEndian.Uint16(info)&ctNoTrack != 0, name == "NOTRACK":
		return expression{kind: "notrack"}
	case name == "CT" || name == "LOG" || name == "NFLOG" || name == "TRACE":
		return expression{}
	}
	return expression{kind: "immediate", verdict: verdictAccept} // it may accept the packet
}
