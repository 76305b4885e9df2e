package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

const (
	// DefaultTTL is the ttlMs of a list where no server promises any.
	DefaultTTL = 60 * time.Second
	// partialTTL bounds the ttlMs of a list in which a server is missing that has never answered: it will grow soon.
	partialTTL = 10 * time.Second
	// maxVanished bounds, for each server of a view, how many names stay its own after it stopped offering them.
	maxVanished = 1000
)

// Catalog is every item of every server as every endpoint serves it. It is immutable.
type Catalog struct {
	version string
	sources []*Source
	views   []*View
	byPath  map[string]*View
}

// key is a public name; claim is who it belongs to.
type key struct {
	kind   Kind
	public string
}

type claim struct {
	key
	server, name string
}

// Build merges sources, in configuration order, into one catalog. sources holds one value for every configured server,
// up or not; previous is the last catalog, or nil.
//
// Who owns a public name: whoever served it in previous, else the first in configuration order. Another's item of that name
// is quarantined in the view. A name stays its server's even when the server stops offering the item, for as long as the
// endpoint would still take it from there, so that no other server can slip under a name that clients know.
func Build(endpoints []Endpoint, sources []*Source, previous *Catalog) *Catalog {
	return BuildLocked(endpoints, sources, nil, previous)
}

// BuildLocked is Build, and holds every item against a lock: Item.Drift says how it differs. No lock is nil; then nothing differs.
func BuildLocked(endpoints []Endpoint, sources []*Source, lock *Lock, previous *Catalog) *Catalog {
	sources = mark(sources, endpoints, lock, previous)
	c := &Catalog{sources: sources, byPath: map[string]*View{}}
	for _, e := range endpoints {
		c.add(e, "", previous)
	}
	for _, e := range endpoints { // after all endpoints: a path that is configured wins
		if !e.PerServer {
			continue
		}
		selectors := e.selectors()
		for _, s := range sources {
			if selected(selectors, s.Server) {
				c.add(e, s.Server, previous)
			}
		}
	}
	c.version = c.digest()
	return c
}

// View finds what is served at a path, nil where there is nothing.
func (c *Catalog) View(path string) *View { return c.byPath[path] }

// Views lists every view: endpoints as configured, then per-server views.
func (c *Catalog) Views() []*View { return slices.Clone(c.views) }

// Source finds a server by name, nil where there is none.
func (c *Catalog) Source(server string) *Source {
	if c == nil {
		return nil
	}
	for _, s := range c.sources {
		if s.Server == server {
			return s
		}
	}
	return nil
}

// Version is a digest of all that clients can see through the catalog. Two catalogs of one version serve the same.
func (c *Catalog) Version() string { return c.version }

func selected(selectors []*selector, server string) bool {
	return slices.ContainsFunc(selectors, func(s *selector) bool { return s.server.Match(server) })
}

// add builds one view; server narrows it to one of the endpoint's.
func (c *Catalog) add(e Endpoint, server string, previous *Catalog) {
	v := &View{Endpoint: e.Name, Path: e.Path, Server: server, pageSize: e.PageSize, prefix: e.prefix}
	if server != "" {
		v.Path = strings.TrimSuffix(e.Path, "/") + "/" + server
		v.prefix = func(string) string { return "" }
	}
	if c.byPath[v.Path] != nil {
		return
	}
	if v.pageSize <= 0 {
		v.pageSize = DefaultPageSize
	}
	selectors := map[string][]*selector{} // by server: those that match it
	all := e.selectors()
	for _, s := range c.sources {
		for _, sel := range all {
			if (server == "" || s.Server == server) && sel.server.Match(s.Server) {
				selectors[s.Server] = append(selectors[s.Server], sel)
			}
		}
		if selectors[s.Server] != nil {
			v.sources = append(v.sources, s)
		}
	}
	var last *View
	if previous != nil {
		last = previous.byPath[v.Path]
	}
	v.fill(last, func(server string, kind Kind, name string) bool {
		return slices.ContainsFunc(selectors[server], func(s *selector) bool { return s.takes(kind, name) })
	})
	v.finish(last)
	c.views = append(c.views, v)
	c.byPath[v.Path] = v
}

// public is the name of an item on the view. Resources and templates keep theirs: URIs recur in results and in free text.
func (v *View) public(server string, kind Kind, name string) string {
	if kind == Resource || kind == Template {
		return name
	}
	return v.prefix(server) + name
}

// fill names the items and settles who owns each name.
func (v *View) fill(last *View, takes func(server string, kind Kind, name string) bool) {
	var claims []claim // of the last view, those that the endpoint still makes
	for _, cl := range last.claims() {
		if takes(cl.server, cl.kind, cl.name) && v.public(cl.server, cl.kind, cl.name) == cl.public {
			claims = append(claims, cl)
		}
	}
	owner := make(map[key]claim, len(claims))
	for _, cl := range claims {
		owner[cl.key] = cl
	}
	for k := range v.names {
		v.names[k] = map[string]*Entry{}
	}
	for _, s := range v.sources {
		for _, kind := range Kinds {
			left := 0
			for _, i := range s.Items[kind] {
				if !takes(s.Server, kind, i.Name) {
					continue
				}
				cl := claim{key{kind, v.public(s.Server, kind, i.Name)}, s.Server, i.Name}
				if o, ok := owner[cl.key]; ok && (o.server != s.Server || o.name != i.Name) {
					v.refuse(i, fmt.Sprintf("the name %q belongs to %s of %s", cl.public, o.name, o.server))
					continue
				}
				if v.names[kind][cl.public] != nil {
					v.refuse(i, "the server lists this name twice; the first is kept")
					continue
				}
				n := last.entry(i, cl.public, s.Modern)
				if n == nil {
					var err error
					if n, err = newEntry(i, cl.public, s.Modern); err != nil {
						v.refuse(i, fmt.Sprintf("as %q: %v", clip(cl.public), err))
						continue
					}
				}
				owner[cl.key] = cl
				v.names[kind][cl.public] = n
				v.entries[kind] = append(v.entries[kind], n)
				if n.Modern {
					v.modern[kind] = append(v.modern[kind], n)
				} else {
					left++
				}
			}
			if left > 0 {
				v.leftOut = append(v.leftOut, LeftOut{s.Server, kind, left, legacyOnly})
			}
		}
	}
	kept := map[string]int{}
	for _, cl := range claims {
		if v.names[cl.kind][cl.public] == nil && kept[cl.server] < maxVanished {
			kept[cl.server]++
			v.vanished = append(v.vanished, cl)
		}
	}
}

func (v *View) refuse(i *Item, reason string) {
	v.refused = append(v.refused, Quarantined{i.Server, i.Kind, clip(i.Name), reason})
}

// claims lists who owned what on the view; nil is a view that never was.
func (v *View) claims() []claim {
	if v == nil {
		return nil
	}
	var out []claim
	for kind, entries := range v.entries {
		for _, e := range entries {
			out = append(out, claim{key{Kind(kind), e.Public}, e.Item.Server, e.Item.Name})
		}
	}
	return append(out, v.vanished...)
}

// entry finds an entry of the last view that is equal to the one asked for; most are, and keep their bytes.
func (v *View) entry(i *Item, public string, modern bool) *Entry {
	if v == nil {
		return nil
	}
	if e := v.names[i.Kind][public]; e != nil && e.Item == i && e.Modern == modern {
		return e
	}
	return nil
}

// finish prepares what depends on the whole view.
func (v *View) finish(last *View) {
	if last != nil {
		for _, e := range last.templates {
			if n := v.names[Template][e.Public]; n != nil && n.Item.Server == e.Item.Server {
				v.templates = append(v.templates, n)
			}
		}
	}
	old := len(v.templates)
	for _, e := range v.entries[Template] {
		if !slices.Contains(v.templates[:old], e) {
			v.templates = append(v.templates, e)
		}
	}
	v.tail[Modern] = []byte(`,"resultType":"complete","ttlMs":` + strconv.FormatInt(v.TTL().Milliseconds(), 10) + `,"cacheScope":"private"`)
}

// TTL is how long a client may keep a list of the view: the least that its servers promise, DefaultTTL where none does.
func (v *View) TTL() time.Duration {
	ttl := time.Duration(0)
	for _, s := range v.sources {
		if s.TTL > 0 && (ttl == 0 || s.TTL < ttl) {
			ttl = s.TTL
		}
	}
	if ttl == 0 {
		ttl = DefaultTTL
	}
	for _, s := range v.sources {
		if s.Fetched.IsZero() {
			ttl = min(ttl, partialTTL)
		}
	}
	return ttl
}

func (c *Catalog) digest() string {
	h := hasher{sha256.New()}
	for _, s := range c.sources {
		h.strings(s.Server, s.Instructions, string(s.Capabilities))
		h.bools(s.Modern, s.Legacy, s.Sessions)
		h.ints(len(s.Revisions))
		for _, r := range s.Revisions {
			h.strings(string(r))
		}
	}
	h.ints(len(c.views))
	for _, v := range c.views {
		h.strings(v.Endpoint, v.Path, v.Server)
		h.ints(v.pageSize, int(v.TTL()), len(v.templates))
		for _, entries := range v.entries {
			h.ints(len(entries))
			for _, e := range entries {
				h.strings(e.Public)
				h.bools(e.Modern)
				h.item(e.Item)
			}
		}
		for _, e := range v.templates {
			h.strings(e.Public)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// legacyOnly is why modern clients do not see an item.
const legacyOnly = "the server speaks no revision from " + string(mcp.R20260728) + " on"
