package bus

import (
	"fmt"
	"math"
	"strconv"

	"github.com/vxcan/vxcan/pkg/canlink"
)

// DefaultTxQueue is how many frames the transmit queue of a controller holds that we set up. The kernel's 10 lose most of
// a burst: a container's write succeeds whether its frame finds a place there or not.
const DefaultTxQueue = 1000

// controllerKeys are how a controller is to be set up, as ip link spells them. Without bitrate it is never touched.
var controllerKeys = []Key{
	controllerNumber("bitrate", "bits per second; set up and kept so", func(s *canlink.Settings) *uint32 { return &s.Bitrate }),
	controllerPoint("sample-point", func(s *canlink.Settings) *uint32 { return &s.SamplePoint }),
	controllerMode("fd", "CAN FD, with dbitrate", func(s *canlink.Settings) *bool { return &s.FD }),
	controllerNumber("dbitrate", "bits per second of the data of CAN FD frames", func(s *canlink.Settings) *uint32 { return &s.DataBitrate }),
	controllerPoint("dsample-point", func(s *canlink.Settings) *uint32 { return &s.DataSamplePoint }),
	controllerNumber("restart-ms", "milliseconds from bus-off to a restart; not every adapter has it", func(s *canlink.Settings) *uint32 { return &s.RestartMS }),
	controllerKey("txqueuelen", jsonWhole, strconv.Itoa(DefaultTxQueue), "frames in the transmit queue; a longer one is left", func(c *Config, value string) error {
		n, err := parseNumber(value, 1)
		c.TxQueue = int(n)
		return err
	}),
	controllerKey("termination", jsonWhole, "left as it is", "ohms; 0 is off", func(c *Config, value string) error {
		n, err := parseNumber(value, 0)
		if err == nil && n > math.MaxUint16 {
			err = fmt.Errorf("%w value %s: want ohms", ErrInvalid, value)
		}
		c.Controller.Termination, c.Controller.SetTermination = uint16(n), true
		return err
	}),
	controllerMode("listen-only", "never send, not even an acknowledgement", func(s *canlink.Settings) *bool { return &s.ListenOnly }),
	controllerMode("one-shot", "send each frame once, acknowledged or not", func(s *canlink.Settings) *bool { return &s.OneShot }),
	controllerMode("triple-sampling", "three samples a bit", func(s *canlink.Settings) *bool { return &s.TripleSampling }),
	controllerMode("berr-reporting", "an error frame for each bus error", func(s *canlink.Settings) *bool { return &s.BerrReporting }),
	controllerMode("presume-ack", "do without acknowledgements", func(s *canlink.Settings) *bool { return &s.PresumeAck }),
	controllerMode("fd-non-iso", "CAN FD before ISO 11898-1:2015", func(s *canlink.Settings) *bool { return &s.FDNonISO }),
}

func controllerKey(name string, kind jsonKind, def, meaning string, set func(c *Config, value string) error) Key {
	return Key{
		Name: name, Default: def, Meaning: meaning, In: everywhere, json: kind,
		set: func(c *Config, value string) error {
			c.controllerKey = name
			return set(c, value)
		},
	}
}

func controllerNumber(name, meaning string, field func(s *canlink.Settings) *uint32) Key {
	return controllerKey(name, jsonWhole, "", meaning, func(c *Config, value string) (err error) {
		*field(&c.Controller), err = parseNumber(value, 1)
		return err
	})
}

func controllerPoint(name string, field func(s *canlink.Settings) *uint32) Key {
	return controllerKey(name, jsonNumber, "the kernel's choice", "sample point as a part of a bit, such as 0.875", func(c *Config, value string) error {
		point, err := strconv.ParseFloat(value, 64)
		if err != nil || point <= 0 || point >= 1 {
			return fmt.Errorf("%w value %q: want a part of a bit, such as 0.875", ErrInvalid, value)
		}
		*field(&c.Controller) = uint32(math.Round(point * 1000))
		return nil
	})
}

func controllerMode(name, meaning string, field func(s *canlink.Settings) *bool) Key {
	return controllerKey(name, jsonBool, "false", meaning, func(c *Config, value string) (err error) {
		*field(&c.Controller), err = parseBool(value)
		return err
	})
}

func parseNumber(value string, least uint32) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || uint32(n) < least {
		return 0, fmt.Errorf("%w value %q: want a whole number from %d on", ErrInvalid, value, least)
	}
	return uint32(n), nil
}

// Check tells what is wrong with keys that are right one by one.
func (c *Config) Check() error {
	switch {
	case c.controllerKey == "":
		return nil
	case !c.Physical:
		return fmt.Errorf("%w: %s is for a controller: set physical to true", ErrInvalid, c.controllerKey)
	case c.Controller.Bitrate == 0:
		return fmt.Errorf("%w: %s needs bitrate, without which a controller is left as it is", ErrInvalid, c.controllerKey)
	}
	if err := c.Controller.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}
