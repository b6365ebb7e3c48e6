// Package docs tests the pages of this repository: links, anchors, paths, configurations, and command lines as far as that
// goes without a kernel. Tests of the runtimes run the quick starts.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const root = "../../"

// page is a Markdown file.
type page struct {
	path    string // below the root
	anchors []string
	links   []string
	code    []string // what is between backquotes
	blocks  []block
}

// block is a fenced block.
type block struct {
	language string
	lines    []string
}

var (
	fence   = regexp.MustCompile("^ *```(.*)$")
	heading = regexp.MustCompile(`^#+ +(.+)$`)
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	span    = regexp.MustCompile("`([^`]+)`")
)

// pages are all Markdown files of the repository.
func pages(t testing.TB) (all []page) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bin"}, entry.Name()):
			return fs.SkipDir
		case filepath.Ext(path) == ".md":
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all = append(all, parse(strings.TrimPrefix(filepath.Clean(path), root), string(content)))
		}
		return nil
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("%d pages, %v", len(all), err)
	}
	return all
}

func parse(path, text string) page {
	p := page{path: path}
	var open *block
	for _, line := range strings.Split(text, "\n") {
		if found := fence.FindStringSubmatch(line); found != nil {
			if open != nil {
				p.blocks, open = append(p.blocks, *open), nil
			} else {
				open = &block{language: found[1]}
			}
			continue
		}
		if open != nil {
			open.lines = append(open.lines, line)
			continue
		}
		if found := heading.FindStringSubmatch(line); found != nil {
			p.anchors = append(p.anchors, p.anchor(found[1]))
		}
		for _, found := range span.FindAllStringSubmatch(line, -1) {
			p.code = append(p.code, found[1])
		}
		for _, found := range link.FindAllStringSubmatch(span.ReplaceAllString(line, ""), -1) {
			p.links = append(p.links, found[1])
		}
	}
	return p
}

// anchor is what GitHub makes of a heading.
func (p page) anchor(heading string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
	again := 0
	for _, other := range p.anchors {
		if other == name || strings.HasPrefix(other, name+"-") && strings.Trim(other[len(name)+1:], "0123456789") == "" {
			again++
		}
	}
	if again > 0 {
		name = fmt.Sprintf("%s-%d", name, again)
	}
	return name
}

// target is where a link of a page leads, below the root. It is not ok if that is elsewhere on the Internet.
func (p page) target(link string) (path, anchor string, ok bool) {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return "", "", false
	}
	path, anchor, _ = strings.Cut(link, "#")
	if path == "" {
		return p.path, anchor, true
	}
	return filepath.Join(filepath.Dir(p.path), path), anchor, true
}
