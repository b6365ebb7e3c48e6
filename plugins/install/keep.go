package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/config"
)

const (
	slowPoll = 10 * time.Second       // beside a watch: for a ConfigMap, and whatever the watch does not show
	fastPoll = 200 * time.Millisecond // without one, and for a symbolic link: its target is not watched
	again    = 50 * time.Millisecond  // after what passes by itself
	// patience is how many times installOnce tries what passes by itself: longer than a file settles.
	patience = 200
)

// passes reports whether an error is one that passes by itself, soon.
func passes(err error) bool {
	return errors.Is(err, errChanged) || errors.Is(err, errBusy) || errors.Is(err, errUnsettled)
}

// installOnce installs and does not wait for a pod network.
func (in *installer) installOnce(ctx context.Context) error {
	if wantsNodes(hostsOf(in.valid)) {
		return fmt.Errorf("%w entry: hosts: nodes come and go: leave out --once", errUsage)
	}
	return persist(ctx, func() error {
		_, err := in.install(ctx)
		return err
	})
}

// persist tries again what fails by something that passes.
func persist(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		if err := try(); err == nil || !passes(err) || n == patience || !sleep(ctx, again) {
			return withHint(err)
		}
	}
}

// keepInstalled installs, and again whenever something has changed, until a signal comes.
func (in *installer) keepInstalled(ctx context.Context) error {
	poll := slowPoll
	changed, err := watch(ctx, in.confDir, in.binDir)
	if err != nil {
		poll = fastPoll
		slog.Warn("cannot watch the directories: reading them all the time", "every", poll, "err", err)
	}
	var said string
	pace := pace{left: burst, at: time.Now()}
	for {
		wrote, err := in.install(ctx)
		if errors.Is(err, errUsage) && in.compared == nil {
			return err // no plugin
		}
		done := "plugin and entry are in place"
		if isNone(in.valid) {
			done = "the plugin is in place, and no entry is wanted"
		}
		said = say(said, done, err)
		in.nodes.ask(ctx)
		wait := poll
		switch {
		case passes(err):
			wait = again
		case in.linked:
			wait = fastPoll
		}
		select {
		case <-ctx.Done():
		case a := <-in.nodes.answers:
			in.nodes.take(a, time.Now())
		case _, ok := <-changed:
			if !ok && ctx.Err() == nil {
				return fmt.Errorf("%s or %s is gone: start again when it is there", in.confDir, in.binDir)
			}
		case <-time.After(wait):
		}
		if !sleep(ctx, pace.delay(wrote)) {
			if in.removeOnExit {
				return persist(context.WithoutCancel(ctx), in.remove)
			}
			return nil
		}
	}
}

// sleep returns false at once when the context ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}

// say logs an error, or that all is done, unless it is what was said last, and returns the error to be the next last one.
func say(last, done string, err error) string {
	if errors.Is(err, errChanged) || errors.Is(err, errUnsettled) {
		return last
	}
	words := ""
	if err != nil {
		words = config.OneLine(withHint(err))
	}
	switch {
	case words == last:
	case err == nil:
		slog.Info(done)
	case errors.Is(err, errNoNetwork):
		slog.Info(words)
	default:
		slog.Error(words)
	}
	return words
}

// withHint says what to do where the kernel's word does not.
func withHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: the directory must belong to the user that this runs as, and SELinux must allow it", err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: mount the directory writable", err)
	}
	return err
}

// pace bounds a quarrel with a program that takes the entry out each time it is put in. After a burst of writes it holds
// each of them back, for less than the second that the entry may be missing; and when that does not end, for long.
type pace struct {
	left   float64
	at     time.Time
	held   int
	warned time.Time
}

const (
	burst    = 50
	perSec   = 0.5
	heldBack = 150 * time.Millisecond
	quarrel  = 100 // writes that were held back
	heldLong = 10 * time.Second
)

// delay is how long to wait behind a step.
func (p *pace) delay(wrote bool) time.Duration {
	now := time.Now()
	p.left = min(burst, p.left+perSec*now.Sub(p.at).Seconds())
	p.at = now
	if p.left == burst {
		p.held = 0
	}
	if !wrote {
		return 0
	}
	if p.left--; p.left > 0 {
		return 0
	}
	p.left = 0
	p.held++
	if now.Sub(p.warned) > time.Minute {
		p.warned = now
		slog.Warn("another program takes the entry out each time it is put in; with Cilium, set cni.exclusive to false")
	}
	if p.held > quarrel {
		return heldLong
	}
	return heldBack
}
