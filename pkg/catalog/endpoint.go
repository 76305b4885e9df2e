package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gobwas/glob"
)

// DefaultPageSize is how many items a list page holds where an endpoint does not say.
const DefaultPageSize = 1000

// Endpoint is one path that clients connect to: which items of which servers, under which names.
type Endpoint struct {
	Name    string            // what policy reads
	Path    string            // begins with "/"
	Servers []Selection       // an item is served where any selection takes it; none takes nothing
	Prefix  map[string]string // by server; overrides the rule below, "" switches it off
	// PageSize is how many items a list page holds; 0 means DefaultPageSize.
	PageSize int
	// PerServer also serves <path>/<server> for every selected server, under the same selection and without prefixes.
	PerServer bool
}

// Selection takes items of the servers whose name matches. Patterns are globs: * any run of characters,
// ? one, [a-z] a class, {a,b} alternatives.
type Selection struct {
	Server  string   // pattern
	Include []string // patterns over origin names (tools, prompts), URIs and uriTemplates; empty takes all
	Exclude []string // wins over Include
	Kinds   []Kind   // empty takes all
}

// Check reports every fault of the endpoint. Build treats a pattern that Check refuses as one that takes nothing.
func (e Endpoint) Check() error {
	var faults []error
	if e.Name == "" {
		faults = append(faults, errors.New("an endpoint needs a name"))
	}
	if !strings.HasPrefix(e.Path, "/") {
		faults = append(faults, fmt.Errorf("path %q does not begin with /", e.Path))
	}
	if e.PageSize < 0 {
		faults = append(faults, fmt.Errorf("page size %d is negative", e.PageSize))
	}
	for n, s := range e.Servers {
		if _, err := compile(s); err != nil {
			faults = append(faults, fmt.Errorf("servers[%d]: %w", n, err))
		}
	}
	for server, p := range e.Prefix {
		if p != "" && !toolName(p) {
			faults = append(faults, fmt.Errorf("prefix %q of %s: letters, digits, dot, hyphen and underscore only", p, server))
		}
	}
	return errors.Join(faults...)
}

// prefix is what the endpoint puts before names of a server. It depends on the endpoint's own words alone,
// never on how many servers exist or answer: an endpoint that names exactly one server, literally, has no
// prefix; one that may hold several has one from the first server on, so that adding a server renames nothing.
func (e Endpoint) prefix(server string) string {
	if p, ok := e.Prefix[server]; ok {
		return p
	}
	if !e.several() {
		return ""
	}
	return server + "_"
}

func (e Endpoint) several() bool {
	for _, s := range e.Servers {
		if s.Server != e.Servers[0].Server || strings.ContainsAny(s.Server, `*?[{\`) {
			return true
		}
	}
	return false
}

// selector is a compiled Selection.
type selector struct {
	server           *glob.Pattern
	include, exclude []*glob.Pattern
	kinds            []Kind
}

func compile(s Selection) (*selector, error) {
	server, err := glob.Compile(s.Server)
	if err != nil || s.Server == "" {
		return nil, fmt.Errorf("pattern %q for servers: %w", s.Server, orEmpty(err))
	}
	c := &selector{server: server, kinds: s.Kinds}
	if c.include, err = globs(s.Include); err != nil {
		return nil, err
	}
	c.exclude, err = globs(s.Exclude)
	return c, err
}

func globs(patterns []string) ([]*glob.Pattern, error) {
	out := make([]*glob.Pattern, 0, len(patterns))
	for _, p := range patterns {
		g, err := glob.Compile(p)
		if err != nil || p == "" {
			return nil, fmt.Errorf("pattern %q: %w", p, orEmpty(err))
		}
		out = append(out, g)
	}
	return out, nil
}

func orEmpty(err error) error {
	if err == nil {
		return errors.New("is empty")
	}
	return err
}

// selectors compiles what can be compiled; a selection with a bad pattern takes nothing.
func (e Endpoint) selectors() []*selector {
	var out []*selector
	for _, s := range e.Servers {
		if c, err := compile(s); err == nil {
			out = append(out, c)
		}
	}
	return out
}

func (s *selector) takes(kind Kind, name string) bool {
	match := func(g *glob.Pattern) bool { return g.Match(name) }
	return (len(s.kinds) == 0 || slices.Contains(s.kinds, kind)) &&
		(len(s.include) == 0 || slices.ContainsFunc(s.include, match)) &&
		!slices.ContainsFunc(s.exclude, match)
}
