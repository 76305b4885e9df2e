package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gobwas/glob"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

func (c *checker) endpoints(servers []string) {
	var listeners []string
	for _, l := range c.config.Listeners {
		if l.Name != "" && !slices.Contains(listeners, l.Name) { // else reported already
			listeners = append(listeners, l.Name)
		}
	}
	names := map[string]string{}
	paths := map[[2]string]string{} // by listener and path: who serves it
	for i, e := range c.config.Endpoints {
		path := fmt.Sprintf("endpoints[%d]", i)
		c.unique(names, path+".name", e.Name)
		c.urlPath(path+".path", e.Path)
		for j, name := range e.Listeners {
			if !slices.Contains(listeners, name) {
				c.fault(fmt.Sprintf("%s.listeners[%d]", path, j), "there is no listener "+shorten(name), among(name, listeners))
			}
		}
		selected := c.selection(path, e, servers)
		for name := range e.Prefixes {
			if !slices.Contains(servers, name) {
				c.fault(path+".prefixes["+strconv.Quote(name)+"]", "there is no server "+shorten(name), among(name, servers))
			}
		}
		if e.Path == "" {
			continue
		}
		on := e.Listeners
		if len(on) == 0 {
			on = listeners
		}
		for _, listener := range on {
			c.claim(paths, listener, e.Path, path+".path", "endpoint "+e.Name)
			if e.PerServer {
				for _, server := range selected {
					c.claim(paths, listener, PerServerPath(e.Path, server), path+".per_server", "server "+server+" of endpoint "+e.Name)
				}
			}
		}
	}
}

// PerServerPath is where an endpoint with `per_server` serves one server alone.
func PerServerPath(endpoint, server string) string {
	return strings.TrimSuffix(endpoint, "/") + "/" + server
}

func (c *checker) claim(paths map[[2]string]string, listener, url, path, who string) {
	key := [2]string{listener, url}
	if first, ok := paths[key]; ok {
		c.fault(path, fmt.Sprintf("%s is the path of %s and of %s", url, first, who), "give one of them another path, or another listener")
		return
	}
	paths[key] = who
}

var pathGrammar = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$|^/$`)

func (c *checker) urlPath(at, path string) {
	switch {
	case path == "":
	case !pathGrammar.MatchString(path) || slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "." || s == ".." }):
		c.fault(at, shorten(path)+" is not a path that is compared byte by byte", "begin with /, use letters, digits and -._~, and end without /")
	case path == "/healthz" || path == "/.well-known" || strings.HasPrefix(path, "/.well-known/"):
		c.fault(at, path+" is the gateway's own", "choose another, such as /mcp")
	}
}

// selection returns the servers that the endpoint selects, in their order.
func (c *checker) selection(path string, e *configv1.Endpoint, servers []string) []string {
	taken := make([]bool, len(servers))
	for i, s := range e.Servers {
		at := fmt.Sprintf("%s.servers[%d]", path, i)
		for j, p := range s.Include {
			c.pattern(fmt.Sprintf("%s.include[%d]", at, j), p)
		}
		for j, p := range s.Exclude {
			c.pattern(fmt.Sprintf("%s.exclude[%d]", at, j), p)
		}
		if s.Server == "" {
			continue
		}
		match := c.pattern(at+".server", s.Server)
		if match == nil {
			continue
		}
		matched := false
		for n, name := range servers {
			if match.Match(name) {
				taken[n], matched = true, true
			}
		}
		switch {
		case matched:
		case !strings.ContainsAny(s.Server, `*?[]{}\`):
			c.fault(at+".server", "there is no server "+shorten(s.Server), among(s.Server, servers))
		case s.Server != "*":
			c.warn(at+".server", shorten(s.Server)+" matches no server", among("", servers))
		}
	}
	var selected []string
	for n, name := range servers {
		if taken[n] {
			selected = append(selected, name)
		}
	}
	return selected
}

func (c *checker) pattern(path, text string) *glob.Pattern {
	p, err := glob.Compile(text)
	if err != nil || text == "" {
		c.fault(path, shorten(text)+" is not a pattern", "write a name, or use * for any text, ? for one character, [a-z] for a range, {a,b} for one of several")
		return nil
	}
	return p
}

// among says which names there are, the nearest first.
func among(name string, names []string) string {
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	switch n := len(names); {
	case n == 0:
		return "none is configured"
	case n == 1:
		return "there is only " + names[0]
	case n > 10:
		return fmt.Sprintf("there are %s and %d more", strings.Join(names[:10], ", "), n-10)
	default:
		return "there are " + strings.Join(names, ", ")
	}
}
