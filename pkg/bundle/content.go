package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// Content is one verified bundle in the words of package opa. It is immutable.
type Content struct {
	Modules  []opa.File // without tests; their names are those in the bundle, so equal bundles give equal engine revisions wherever they come from
	Data     []opa.File // at most one, JSON
	Revision string     // of the manifest
	Roots    []string   // of the manifest; OPA's reader has held policies and data against them
	ETag     string     // of an HTTP server, or the layer's digest in a registry
	Signed   bool       // and verified

	digest [sha256.Size]byte
}

// contentOf takes a bundle apart that OPA's reader has read and verified.
func contentOf(b *bundle.Bundle, etag string) (*Content, error) {
	if b.Type() != bundle.SnapshotBundleType {
		return nil, refusef("it is a delta bundle, which carries no signature and is never taken; let the server send snapshots")
	}
	if len(b.WasmModules) > 0 || len(b.PlanModules) > 0 || len(b.Manifest.WasmResolvers) > 0 {
		return nil, refusef("it is compiled for another engine; build the bundle without -t wasm and -t plan")
	}
	c := &Content{Revision: b.Manifest.Revision, ETag: etag, Signed: len(b.Signatures.Signatures) > 0}
	if b.Manifest.Roots != nil {
		c.Roots = slices.Clone(*b.Manifest.Roots)
	}
	for _, m := range b.Modules {
		if name := strings.TrimPrefix(m.Path, "/"); !isTest(name) {
			c.Modules = append(c.Modules, opa.File{Name: name, Text: m.Raw})
		}
	}
	if len(c.Modules) == 0 { // it would be a policy that refuses everything, and nobody means that
		return nil, refusef("it holds no policy, that is no .rego file besides tests")
	}
	slices.SortFunc(c.Modules, func(a, b opa.File) int { return cmp.Compare(a.Name, b.Name) })
	if len(b.Data) > 0 {
		text, err := encode(b.Data)
		if err != nil {
			return nil, &Refusal{err}
		}
		c.Data = []opa.File{{Name: "data.json", Text: text}}
	}
	h := sha256.New()
	for _, f := range slices.Concat(c.Modules, c.Data) {
		fmt.Fprintf(h, "%d:%s%d:%s", len(f.Name), f.Name, len(f.Text), f.Text)
	}
	fmt.Fprintf(h, "%q %q %v", c.Revision, c.Roots, c.Signed)
	h.Sum(c.digest[:0])
	return c, nil
}

// encode writes a document as OPA's writer does: keys in order, numbers as they were.
func encode(document map[string]any) ([]byte, error) {
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(document)
	return b.Bytes(), err
}

// Read reads and verifies a .tar.gz that lies in memory. Of the options it takes Verification and MaxBytes. An error that is a
// [Refusal] is about the bundle.
func Read(archive []byte, o Options) (*Content, error) {
	o.setDefaults()
	v, err := o.Verification.config()
	if err != nil {
		return nil, err
	}
	return readArchive(archive, v, o.MaxBytes)
}

func readArchive(archive []byte, v *bundle.VerificationConfig, limit int64) (*Content, error) {
	entries, err := unpack(archive, limit, true)
	if err != nil {
		return nil, err
	}
	return readEntries(entries, v, limit)
}

// readPath reads a directory or a file.
func readPath(name string, v *bundle.VerificationConfig, limit int64) (*Content, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		entries, err := readDir(name, limit)
		if err != nil {
			return nil, err
		}
		return readEntries(entries, v, limit)
	}
	archive, err := readBounded(name, limit+overhead)
	if err != nil {
		return nil, err
	}
	return readArchive(archive, v, limit)
}

func readEntries(entries []entry, v *bundle.VerificationConfig, limit int64) (*Content, error) {
	b, err := bundle.NewCustomReader(&loader{left: entries}).WithBundleVerificationConfig(v).WithSizeLimitBytes(limit).Read()
	if err != nil {
		return nil, &Refusal{remedied(err)}
	}
	return contentOf(&b, "")
}

// ignored names the files of a directory that look like data and are none in a bundle: OPA takes data.json, data.yaml and data.yml alone.
func ignored(entries []entry) (names []string) {
	for _, e := range entries {
		base := path.Base(e.name)
		switch path.Ext(base) {
		case ".json", ".yaml", ".yml":
			stem := strings.TrimSuffix(base, path.Ext(base))
			tests := strings.HasSuffix(stem, "_test") || base == "catalog.json" // tables of tests, and what they are asked with
			if stem != "data" && !tests && !bundle.IsSignaturesFile("/"+e.name) {
				names = append(names, e.name)
			}
		}
	}
	return names
}

// remedies are added to OPA's own words.
var remedies = []struct{ contains, remedy string }{
	{"bundle missing .signatures.json file", "it is not signed; sign it with mcpgw policy bundle --signing-key, or with opa build --signing-key"},
	{"verification key not provided", "it is signed, and no key is configured to verify it with; add `verification` to the bundle's configuration"},
	{"failed to verify JWT signature", "it is signed with another key or algorithm than the configured ones"},
	{"scope mismatch", "its signature names another scope than the configured one"},
	{"verification key corresponding to ID", "its signature gives the key another name than the configured key_id"},
	{"not included in bundle signature", "the file was added after signing"},
	{"digest mismatch", "the file was changed after signing"},
	{"do not permit", "the manifest's roots must cover every package and all data of the bundle"},
}

func remedied(err error) error {
	for _, r := range remedies {
		if strings.Contains(err.Error(), r.contains) {
			return fmt.Errorf("%w (%s)", err, r.remedy)
		}
	}
	return err
}
