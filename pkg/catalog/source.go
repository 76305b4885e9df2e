package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

const (
	// MaxItems bounds how many items of one kind are taken from one server.
	MaxItems = 10_000
	// MaxTemplates is the bound for templates: a URI may have to be matched against each of them.
	MaxTemplates = 200
)

// Source is what one server is known to offer. It is immutable once published.
//
// Every configured server has a Source from the start; one that has never answered has no Fetched time
// and no items. A server that stops answering keeps its last items and gains a Degraded reason.
type Source struct {
	Server       string
	Revisions    []mcp.Revision // those that the server says it speaks and the gateway knows, newest first
	Modern       bool           // it speaks 2026-07-28 or later
	Legacy       bool           // it answers initialize
	Sessions     bool           // its legacy era hands out session ids
	Items        [len(Kinds)][]*Item
	Instructions string
	Capabilities []byte        // ServerCapabilities as the server sent them, a JSON object, or nil
	TTL          time.Duration // least ttlMs of its lists; zero: it promises nothing
	Fetched      time.Time     // when the items were read; zero: never
	Degraded     string        // why the items may be stale, from a closed set (package upstream), or empty
	Quarantined  []Quarantined
}

// Quarantined is an item that is not served, and why.
type Quarantined struct {
	Server string `json:"server"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"` // the origin's name, cut to 128 bytes; #N for the Nth of the list where it has none
	Reason string `json:"reason"`
}

// Collect reads the definitions of one kind in the server's order. A definition that a client could not
// accept, or that repeats a name, is quarantined; so is all beyond MaxItems or
// MaxTemplates, in one entry.
func Collect(server string, kind Kind, definitions [][]byte, trust Trust) ([]*Item, []Quarantined) {
	items := make([]*Item, 0, len(definitions))
	var out []Quarantined
	seen := make(map[string]bool, len(definitions))
	most, left := MaxItems, fullPatience
	if kind == Template {
		most = MaxTemplates
	}
	for n, d := range definitions {
		if n == most {
			reason := fmt.Sprintf("and all after it: more than %d of a kind", most)
			out = append(out, Quarantined{server, kind, "#" + strconv.Itoa(n+1), reason})
			break
		}
		item, err := newItem(server, kind, d, trust, &left)
		switch {
		case err != nil:
			out = append(out, Quarantined{server, kind, label(kind, d, n), err.Error()})
		case seen[item.Name]:
			out = append(out, Quarantined{server, kind, clip(item.Name), "the server lists this name twice; the first is kept"})
		default:
			seen[item.Name] = true
			items = append(items, item)
		}
	}
	return items, out
}

// Reuse returns s with every item that previous holds unchanged replaced by previous's own value, so that
// what was prepared for an item outlives a refresh.
func (s *Source) Reuse(previous *Source) *Source {
	if previous == nil || previous.Server != s.Server {
		return s
	}
	next := *s
	for k := range next.Items {
		old := make(map[string]*Item, len(previous.Items[k]))
		for _, i := range previous.Items[k] {
			old[i.Name] = i
		}
		items := make([]*Item, len(s.Items[k]))
		for n, i := range s.Items[k] {
			items[n] = i
			if o := old[i.Name]; o != nil && o.same(i) {
				items[n] = o
			}
		}
		next.Items[k] = items
	}
	return &next
}

// Digest changes when anything that clients or reports see of the source changes, the time of reading excepted.
func (s *Source) Digest() string {
	h := hasher{sha256.New()}
	h.strings(s.Server, s.Instructions, string(s.Capabilities), s.Degraded)
	h.bools(s.Modern, s.Legacy, s.Sessions, s.Fetched.IsZero())
	h.ints(int(s.TTL), len(s.Revisions), len(s.Quarantined))
	for _, r := range s.Revisions {
		h.strings(string(r))
	}
	for k := range s.Items {
		h.ints(len(s.Items[k]))
		for _, i := range s.Items[k] {
			h.item(i)
		}
	}
	for _, q := range s.Quarantined {
		h.ints(int(q.Kind))
		h.strings(q.Server, q.Name, q.Reason)
	}
	return hex.EncodeToString(h.Sum(nil))
}
