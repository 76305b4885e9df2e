package catalog

import (
	"slices"
)

// mark returns the sources with what an item's own words do not tell: how it differs from the lock, and whether its name looks like
// another's. A source without either stays as it is; an item that previous has marked alike is previous's own value.
func mark(sources []*Source, endpoints []Endpoint, lock *Lock, previous *Catalog) []*Source {
	alike := lookAlikes(sources, endpoints, lock, previous)
	out := make([]*Source, len(sources))
	for n, s := range sources {
		out[n] = s
		var next *Source
		for k, items := range s.Items {
			for at, i := range items {
				drift, findings := i.Drift, i.Findings // without a lock, as a saved catalog has it
				if lock != nil {
					drift = lock.Drift(i)
				}
				if alike[i] && !slices.Contains(findings, ConfusableName) {
					findings = append([]string{ConfusableName}, findings...) // the first of all
				}
				if drift == i.Drift && len(findings) == len(i.Findings) {
					continue
				}
				if next == nil {
					c := *s
					next = &c
				}
				if &next.Items[k][0] == &s.Items[k][0] {
					next.Items[k] = slices.Clone(items)
				}
				next.Items[k][at] = i.marked(drift, findings)
			}
		}
		if next != nil {
			out[n] = next.Reuse(previous.Source(s.Server))
		}
	}
	return out
}

// marked is the item with other drift and findings. Its policy terms are prepared anew.
func (i *Item) marked(drift string, findings []string) *Item {
	return &Item{
		Server: i.Server, Kind: i.Kind, Name: i.Name, Title: i.Title, Definition: i.Definition, Annotations: i.Annotations, Claimed: i.Claimed,
		Tags: i.Tags, Digest: i.Digest, Drift: drift, Findings: findings, Headers: i.Headers, InputSchema: i.InputSchema, pin: i.pin,
	}
}

// lookAlikes are the tools and prompts whose name looks like another's, as its server calls it or as an endpoint does. Of several that
// look alike one is the original, and it is not among them, so that no server can cast doubt on another's item by a name: whoever is
// pinned as it is; else whoever was not doubted in previous; else the first in configuration order. What is pinned as it is never is
// among them: somebody has looked at it.
func lookAlikes(sources []*Source, endpoints []Endpoint, lock *Lock, previous *Catalog) map[*Item]bool {
	type shape struct {
		kind     Kind
		skeleton string
	}
	type name struct {
		public string
		item   *Item
		rank   int
	}
	names := map[shape][]name{}
	for _, s := range sources {
		prefixes := []string{""}
		for _, e := range endpoints {
			if p := e.prefix(s.Server); !slices.Contains(prefixes, p) {
				prefixes = append(prefixes, p)
			}
		}
		before := previous.Source(s.Server)
		for _, kind := range []Kind{Tool, Prompt} {
			undoubted := map[string]bool{}
			if before != nil {
				for _, i := range before.Items[kind] {
					undoubted[i.Name] = !slices.Contains(i.Findings, ConfusableName)
				}
			}
			for _, i := range s.Items[kind] {
				rank := 2
				switch {
				case lock != nil && lock.Drift(i) == "":
					rank = 0
				case undoubted[i.Name]:
					rank = 1
				}
				for _, p := range prefixes {
					at := shape{kind, skeleton(p + i.Name)}
					names[at] = append(names[at], name{p + i.Name, i, rank})
				}
			}
		}
	}
	out := map[*Item]bool{}
	for _, group := range names {
		if len(group) < 2 {
			continue
		}
		first := group[0]
		for _, n := range group[1:] { // in configuration order
			if n.rank < first.rank {
				first = n
			}
		}
		for _, n := range group {
			if n.public != first.public && n.item != first.item && n.rank > 0 {
				out[n.item] = true
			}
		}
	}
	return out
}
