package opa

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// field is one part of the question that enters a cache key, or does not.
type field uint8

const (
	subjectType field = iota
	subjectID
	subjectIssuer
	subjectClient
	subjectTenant
	subjectRoles
	subjectScopes
	subjectClaims
	actionName
	resourceType
	resourceID
	resourceServer
	resourceName
	resourceURI
	resourceTitle
	resourceAnnotations
	resourceClaimed
	resourceTags
	resourceDigest
	resourceDrift
	resourceFindings
	arguments
	contextEndpoint
	contextEra
	contextRevision
	contextLabels
	contextLost
	contextClientAddress
	contextRequestID
	contextRound
	contextTime
	fields // how many there are
)

// fieldPaths says where each field stands in the question; the same as policies/input.schema.json, which a test compares.
var fieldPaths = [fields][]string{
	subjectType:          {"subject", "type"},
	subjectID:            {"subject", "id"},
	subjectIssuer:        {"subject", "issuer"},
	subjectClient:        {"subject", "client"},
	subjectTenant:        {"subject", "tenant"},
	subjectRoles:         {"subject", "roles"},
	subjectScopes:        {"subject", "scopes"},
	subjectClaims:        {"subject", "claims"},
	actionName:           {"action", "name"},
	resourceType:         {"resource", "type"},
	resourceID:           {"resource", "id"},
	resourceServer:       {"resource", "server"},
	resourceName:         {"resource", "name"},
	resourceURI:          {"resource", "uri"},
	resourceTitle:        {"resource", "title"},
	resourceAnnotations:  {"resource", "annotations"},
	resourceClaimed:      {"resource", "claimed"},
	resourceTags:         {"resource", "tags"},
	resourceDigest:       {"resource", "digest"},
	resourceDrift:        {"resource", "drift"},
	resourceFindings:     {"resource", "findings"},
	arguments:            {"arguments"},
	contextEndpoint:      {"context", "endpoint"},
	contextEra:           {"context", "era"},
	contextRevision:      {"context", "revision"},
	contextLabels:        {"context", "session", "labels"},
	contextLost:          {"context", "session", "lost"},
	contextClientAddress: {"context", "client_address"},
	contextRequestID:     {"context", "request_id"},
	contextRound:         {"context", "round"},
	contextTime:          {"context", "time"},
}

// open reports whether a field is an object with members that nobody declared; of those a key holds only the members that are read.
func (f field) open() bool {
	return f == arguments || f == subjectClaims || f == resourceAnnotations || f == resourceClaimed
}

// alwaysThere reports whether the engine builds something at a path into every question.
func alwaysThere(path []string) bool {
	for f, p := range fieldPaths {
		if hasPrefix(p, path) && field(f) != resourceURI {
			return true
		}
	}
	return false
}

// members are the members of an open object that rules read.
type members struct {
	all   bool
	names []string // sorted; unused if all
}

func (m members) has(name string) bool {
	if m.all {
		return true
	}
	_, found := slices.BinarySearch(m.names, name)
	return found
}

// selection is what enters a key: exactly what the rules can read, in whole fields and in members of open objects.
type selection struct {
	read     [fields]bool
	of       [fields]members // of open fields
	volatile []string        // what is read and changes by itself, as paths: nothing is worth remembering then
}

// passing are claims that differ from token to token of one principal.
var passing = []string{"exp", "iat", "jti", "nbf"}

// choose works out the selection for the paths of a walk.
func choose(r reads) selection {
	var s selection
	for _, path := range r.paths {
		known := false
		for i, p := range fieldPaths {
			f := field(i)
			deep := len(path) > len(p) && hasPrefix(path, p)
			if !deep && !hasPrefix(p, path) {
				continue
			}
			known = true
			s.read[f] = true
			switch {
			case !f.open():
			case deep:
				s.of[f].names = append(s.of[f].names, path[len(p)])
				if f == subjectClaims && slices.Contains(passing, path[len(p)]) {
					s.volatile = append(s.volatile, "subject.claims."+path[len(p)])
				}
			default:
				s.of[f] = members{all: true}
			}
		}
		if !known && !alwaysThere(path) { // the schema knows no such path, so no rule should: take it for anything
			s.volatile = append(s.volatile, "unknown")
		}
	}
	for f := range s.of {
		slices.Sort(s.of[f].names)
		s.of[f].names = slices.Compact(s.of[f].names)
	}
	if s.read[contextTime] {
		s.volatile = append(s.volatile, "context.time")
	}
	if s.read[contextRequestID] {
		s.volatile = append(s.volatile, "context.request_id")
	}
	return s
}

// A key is a digest of fields written one after the other, each either of fixed form or with its length before it. Which fields
// there are follows from the policy, whose revision stands first; so two questions with the same key have the same values in all
// that their rules can read. Open objects enter as the text that was sent: 1 and 1.0, or members with other white space, miss
// where they could hit, and never lie.

// digestFrom is the length from which a text enters a key as its digest, so that keys are built in little memory.
const digestFrom = 512

func appendText[T string | []byte](b []byte, s T) []byte {
	if len(s) >= digestFrom {
		sum := sha256.Sum256([]byte(s))
		b = append(b, 0xff) // no length begins so: lengths below digestFrom have at most two bytes, the second below 4
		b = append(b, 0xff)
		return append(b, sum[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendTexts(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// appendCaller writes what a key holds of subject, action and context.
func (s *selection) appendCaller(b []byte, q *policy.Question, w *scratch) ([]byte, error) {
	p := q.Subject
	texts := [...]struct {
		f    field
		text string
	}{
		{subjectType, p.Type},
		{subjectID, p.ID},
		{subjectIssuer, p.Issuer},
		{subjectClient, p.Client},
		{subjectTenant, p.Tenant},
		{actionName, q.Action},
		{contextEndpoint, q.Context.Endpoint},
		{contextEra, q.Context.Era},
		{contextRevision, q.Context.Revision},
		{contextClientAddress, q.Context.ClientAddress},
		{contextRequestID, q.Context.RequestID},
	}
	for i := range texts {
		if s.read[texts[i].f] {
			b = appendText(b, texts[i].text)
		}
	}
	if s.read[subjectRoles] {
		b = appendTexts(b, p.Roles)
	}
	if s.read[subjectScopes] {
		b = appendTexts(b, p.Scopes)
	}
	if s.read[contextLabels] {
		b = appendTexts(b, q.Context.Labels)
	}
	if s.read[contextLost] {
		b = strconv.AppendBool(b, q.Context.LabelsLost)
	}
	if s.read[contextRound] {
		b = binary.AppendVarint(b, int64(q.Context.Round))
	}
	if s.read[contextTime] {
		b = appendText(b, q.Context.TimeText())
	}
	if s.read[subjectClaims] {
		return w.appendMembers(b, p.Claims, s.of[subjectClaims])
	}
	return b, nil
}

// appendItem writes what a key holds of an item, its URI excepted.
func (s *selection) appendItem(b []byte, i *catalog.Item, w *scratch) ([]byte, error) {
	texts := [...]struct {
		f    field
		text string
	}{
		{resourceType, i.Kind.String()},
		{resourceID, i.ID()},
		{resourceServer, i.Server},
		{resourceName, i.Name},
		{resourceTitle, i.Title},
		{resourceDigest, i.Digest},
		{resourceDrift, i.Drift},
	}
	for k := range texts {
		if s.read[texts[k].f] {
			b = appendText(b, texts[k].text)
		}
	}
	if s.read[resourceTags] {
		b = appendTexts(b, i.Tags)
	}
	if s.read[resourceFindings] {
		b = appendTexts(b, i.Findings)
	}
	var err error
	if s.read[resourceAnnotations] {
		if b, err = w.appendMembers(b, i.Annotations, s.of[resourceAnnotations]); err != nil {
			return b, err
		}
	}
	if s.read[resourceClaimed] {
		b, err = w.appendMembers(b, i.Claimed, s.of[resourceClaimed])
	}
	return b, err
}

var errNoObject = errors.New("want the text of one JSON object")

// appendMembers writes the selected members of an object, in the order in which they stand, each with its name; then an end mark.
// No text at all, and an object without any of the members, are two different things.
func (w *scratch) appendMembers(b, raw []byte, m members) ([]byte, error) {
	if raw == nil {
		return append(b, 0), nil
	}
	b = append(b, 1)
	if m.all {
		return appendText(b, raw), nil
	}
	if len(m.names) == 0 {
		return b, nil
	}
	err := w.eachMember(raw, func(name []byte) bool { return m.has(string(name)) }, func(name []byte, value jsontext.Value) {
		b = append(b, 1)
		b = appendText(b, name)
		b = appendText(b, []byte(value))
	})
	return append(b, 0), err
}
