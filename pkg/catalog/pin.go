package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// unpinned are the members of a definition that no model is shown, and that may change freely: the rest is pinned, members that nobody
// knows too. Of a resource's annotations lastModified is left out as well, for it changes with the resource.
var unpinned = map[string]bool{"_meta": true, "icons": true, "size": true}

// pin is what of a definition somebody has agreed to.
type pin struct {
	once   sync.Once
	text   []byte
	digest string
}

// Pinned is what is pinned of the item, in canonical form: a JSON object with members in the order of their names at every depth, without
// white space, texts in one spelling, numbers as the server wrote them. The bytes are shared. It is safe for concurrent use.
func (i *Item) Pinned() []byte { return i.pinned().text }

func (i *Item) pinned() *pin {
	p := i.pin
	if p == nil {
		p = &pin{}
	}
	p.once.Do(func() {
		if text, err := canonical(i.Kind, i.Definition); err == nil { // NewItem has read it
			p.text = text
		}
		p.digest = pinDigest(p.text)
	})
	return p
}

// PinDigest is SHA-256 of Pinned, hex. Unlike Digest it does not change with the order of members, white space, icons and _meta.
func (i *Item) PinDigest() string { return i.pinned().digest }

func pinDigest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// canonical is the pinned form of a definition that has been read strictly.
func canonical(kind Kind, definition []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(definition))
	d.UseNumber()
	var o map[string]any
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	maps.DeleteFunc(o, func(name string, _ any) bool { return unpinned[name] })
	if a, ok := o["annotations"].(map[string]any); ok && (kind == Resource || kind == Template) {
		delete(a, "lastModified")
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		return nil, err
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

// Bounds of a lock file.
const (
	MaxLock     = 256 << 20 // bytes
	maxLockItem = 1_000_000
	lockVersion = 1
)

// Lock is what the items of servers looked like when somebody last agreed to them: server → kind → name → definition. It changes by Pin
// and Drop alone, and is safe for concurrent use once nobody calls these. The nil Lock says nothing of anything.
type Lock struct {
	servers map[string]map[Kind]map[string]pinned
}

type pinned struct {
	digest     string
	definition []byte // canonical
}

// NewLock is a lock that holds nothing: every item is new to it.
func NewLock() *Lock { return &Lock{servers: map[string]map[Kind]map[string]pinned{}} }

// ReadLock reads a lock file, strictly: what is not known, twice there or does not fit its digest is an error. No error repeats more
// than names.
func ReadLock(text []byte) (*Lock, error) {
	if len(text) > MaxLock {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(text), MaxLock)
	}
	depth := jsonrpc.Limits{Depth: maxDepth + 6}
	o, err := jsonrpc.Parse(text, depth)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	if v := string(o.Get("version").Raw); v != fmt.Sprint(lockVersion) || len(o.Members) != 2 || !o.Get("servers").Exists() {
		return nil, fmt.Errorf("it is no lock file of version %d", lockVersion)
	}
	l, left := NewLock(), maxLockItem
	err = members(o.Get("servers"), "servers", func(server string, v jsonrpc.Value) error {
		return members(v, server, func(kind string, v jsonrpc.Value) error {
			var k Kind
			if err := k.UnmarshalText([]byte(kind)); err != nil {
				return fmt.Errorf("%s: %w", clip(server), err)
			}
			return members(v, server+"."+kind, func(name string, v jsonrpc.Value) error {
				if left--; left < 0 {
					return fmt.Errorf("it has more than %d items", maxLockItem)
				}
				p, err := readPin(k, name, v)
				if err != nil {
					return fmt.Errorf("%s %s of %s: %w", k, clip(name), clip(server), err)
				}
				l.put(server, k, name, p)
				return nil
			})
		})
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

func members(v jsonrpc.Value, what string, each func(name string, v jsonrpc.Value) error) error {
	o, err := jsonrpc.Parse(v.Raw, jsonrpc.Limits{Depth: maxDepth + 6})
	if err != nil {
		return fmt.Errorf("%s: %w", clip(what), err)
	}
	for _, m := range o.Members {
		if err := each(m.Name, m.Value); err != nil {
			return err
		}
	}
	return nil
}

func readPin(kind Kind, name string, v jsonrpc.Value) (pinned, error) {
	o, err := jsonrpc.Parse(v.Raw, jsonrpc.Limits{Depth: maxDepth + 6})
	if err != nil {
		return pinned{}, err
	}
	digest, ok := o.Get("digest").Str()
	definition := o.Get("definition")
	if !ok || len(o.Members) != 2 || !definition.Exists() {
		return pinned{}, errors.New("it needs digest and definition, and nothing else")
	}
	p, called, err := newPin(kind, definition.Raw)
	switch {
	case err != nil:
		return pinned{}, err
	case called != name:
		return pinned{}, errors.New("its definition is of another name")
	case p.digest != digest:
		return pinned{}, errors.New("its digest is not that of its definition: the file was edited")
	}
	return p, nil
}

func newPin(kind Kind, definition []byte) (p pinned, name string, err error) {
	o, err := jsonrpc.Parse(definition, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return p, "", err
	}
	canon, err := canonical(kind, definition)
	return pinned{pinDigest(canon), canon}, text(o, nameMember[kind]), err
}

// Pin agrees to an item as it is defined. The definition must be one that NewItem takes.
func (l *Lock) Pin(server string, kind Kind, definition []byte) error {
	p, name, err := newPin(kind, definition)
	if err == nil && name == "" {
		err = errors.New("the definition has no name")
	}
	if err != nil {
		return err
	}
	l.put(server, kind, name, p)
	return nil
}

func (l *Lock) put(server string, kind Kind, name string, p pinned) {
	kinds := l.servers[server]
	if kinds == nil {
		kinds = map[Kind]map[string]pinned{}
		l.servers[server] = kinds
	}
	if kinds[kind] == nil {
		kinds[kind] = map[string]pinned{}
	}
	kinds[kind][name] = p
}

// Drop forgets an item.
func (l *Lock) Drop(server string, kind Kind, name string) {
	delete(l.servers[server][kind], name)
	if len(l.servers[server][kind]) == 0 {
		delete(l.servers[server], kind)
	}
	if len(l.servers[server]) == 0 {
		delete(l.servers, server)
	}
}

// Len is the number of items.
func (l *Lock) Len() (n int) {
	for _, kinds := range l.servers {
		for _, items := range kinds {
			n += len(items)
		}
	}
	return n
}

// Text is the lock file: members in order and on lines of their own, so that a change of one item changes few lines. Characters that
// cannot be seen are written as escapes.
func (l *Lock) Text() ([]byte, error) {
	type entry struct {
		Digest     string          `json:"digest"`
		Definition json.RawMessage `json:"definition"`
	}
	servers := map[string]map[Kind]map[string]entry{}
	for server, kinds := range l.servers {
		servers[server] = map[Kind]map[string]entry{}
		for kind, items := range kinds {
			servers[server][kind] = map[string]entry{}
			for name, p := range items {
				servers[server][kind][name] = entry{p.digest, p.definition}
			}
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Version int                                  `json:"version"`
		Servers map[string]map[Kind]map[string]entry `json:"servers"`
	}{lockVersion, servers})
	return escaped(out.Bytes()), err
}

// escaped writes characters that cannot be seen as JSON escapes; they stand in texts alone.
func escaped(text []byte) []byte {
	if !bytes.ContainsFunc(text, Unseen) {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for _, c := range string(text) {
		switch {
		case !Unseen(c):
			out = utf8.AppendRune(out, c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, c)
		}
	}
	return out
}

// The drifts. Removed is only said by Compare: an item that is not served asks policy nothing.
const (
	New     = "new"     // the lock does not hold it
	Changed = "changed" // the lock holds it otherwise
	Removed = "removed" // the lock holds it, and its server does not offer it
)

// Drift says how an item differs from the lock: New, Changed, or "" for not at all. Nothing differs from no lock.
func (l *Lock) Drift(i *Item) string {
	if l == nil {
		return ""
	}
	p, ok := l.servers[i.Server][i.Kind][i.Name]
	switch {
	case !ok:
		return New
	case p.digest != i.PinDigest():
		return Changed
	}
	return ""
}

// Offer is an item as a server offers it now, to be held against a lock.
type Offer struct {
	Server     string          `json:"server"`
	Kind       Kind            `json:"kind"`
	Name       string          `json:"name"`
	Drift      string          `json:"drift"` // from the lock that the gateway has read
	Findings   []string        `json:"findings"`
	Digest     string          `json:"digest"`     // of what is pinned
	Definition json.RawMessage `json:"definition"` // what is pinned, in canonical form
}

// Difference is one item that is not as the lock has it.
type Difference struct {
	Server   string          `json:"server"`
	Kind     Kind            `json:"kind"`
	Name     string          `json:"name"`
	Drift    string          `json:"drift"` // new, changed, removed
	Findings []string        `json:"findings,omitempty"`
	Pinned   json.RawMessage `json:"pinned,omitempty"`  // as the lock has it
	Offered  json.RawMessage `json:"offered,omitempty"` // as the server offers it
}

// Compare holds what servers offer against the lock. answered says whether all items of a server are among the offers: of another
// server nothing counts as removed. The differences are in the order of server, kind and name.
func (l *Lock) Compare(offers []Offer, answered func(server string) bool) []Difference {
	var out []Difference
	type id struct {
		server string
		kind   Kind
		name   string
	}
	there := map[id]bool{}
	for _, o := range offers {
		there[id{o.Server, o.Kind, o.Name}] = true
		p, ok := l.servers[o.Server][o.Kind][o.Name]
		d := Difference{Server: o.Server, Kind: o.Kind, Name: o.Name, Drift: New, Findings: o.Findings, Offered: o.Definition}
		if ok {
			if p.digest == o.Digest {
				continue
			}
			d.Drift, d.Pinned = Changed, p.definition
		}
		out = append(out, d)
	}
	for server, kinds := range l.servers {
		for kind, items := range kinds {
			for name, p := range items {
				if !there[id{server, kind, name}] && answered(server) {
					out = append(out, Difference{Server: server, Kind: kind, Name: name, Drift: Removed, Pinned: p.definition})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Difference) int {
		if c := strings.Compare(a.Server, b.Server); c != 0 {
			return c
		}
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// Servers names the servers of the lock, in order.
func (l *Lock) Servers() []string { return slices.Sorted(maps.Keys(l.servers)) }

// Offers is every item of every server, as it is to be held against a lock.
func (c *Catalog) Offers() []Offer {
	out := []Offer{}
	for _, s := range c.sources {
		for _, items := range s.Items {
			for _, i := range items {
				o := Offer{Server: i.Server, Kind: i.Kind, Name: i.Name, Drift: i.Drift, Findings: i.Findings, Digest: i.PinDigest(), Definition: i.Pinned()}
				if o.Findings == nil {
					o.Findings = []string{}
				}
				out = append(out, o)
			}
		}
	}
	return out
}
