package bundle

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// BuildOptions say what a bundle is made of.
type BuildOptions struct {
	Dir       string   // read as a bundle: .rego files, data.json and data.yaml where they lie, a .manifest at the top; tests are left out
	DataFiles []string // JSON or YAML, merged into the data, as policy.data_files
	Revision  string   // of the manifest; empty is that of a .manifest, else the engine's revision of the content

	Entrypoint string // the policy is checked with it; empty is the shipped one

	Signing *Signing // nil leaves the bundle unsigned
}

// Signing is the key that signs.
type Signing struct {
	KeyFile   string // PEM file of the private key, or for HS algorithms the secret: every byte of the file
	KeyID     string // empty is "default"
	Algorithm string // empty is RS256
	Scope     string // empty: none
}

// Built is a bundle that was made, checked and read back.
type Built struct {
	Archive  []byte
	Content  *Content
	Engine   *opa.Engine // the policy, compiled as the gateway will
	Warnings []string    // what is legal and probably not meant
}

// Build makes a bundle. It is checked as a gateway would check it, and what is returned was read back and verified. Equal input gives
// equal bytes, unless the algorithm itself is random (ES and PS).
func Build(o BuildOptions) (*Built, error) {
	entries, err := readDir(o.Dir, defaultMaxBytes)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e entry) bool { return e.name == signatures || isTest(e.name) })
	read, err := bundle.NewCustomReader(&loader{left: slices.Clone(entries)}).Read()
	if err != nil {
		return nil, remedied(err)
	}
	content, err := contentOf(&read, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	more, err := opa.ReadFiles(o.DataFiles...)
	if err != nil {
		return nil, err
	}
	document, err := opa.Document(slices.Concat(content.Data, more))
	if err != nil {
		return nil, err
	}
	data, err := encode(document)
	if err != nil {
		return nil, err
	}
	content.Data = []opa.File{{Name: "data.json", Text: data}}
	if len(document) == 0 {
		content.Data = nil
	}
	engine, err := opa.Load(opa.Options{Modules: content.Modules, Data: content.Data, Entrypoint: o.Entrypoint})
	if err != nil {
		return nil, err
	}

	b := bundle.Bundle{Manifest: read.Manifest, Data: document}
	b.Manifest.SetRegoVersion(ast.RegoV1) // what the check above has read them as
	b.Manifest.FileRegoVersions = nil
	for _, m := range content.Modules {
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: "/" + m.Name, URL: "/" + m.Name, Raw: m.Text})
	}
	switch {
	case o.Revision != "":
		b.Manifest.Revision = o.Revision
	case b.Manifest.Revision == "":
		b.Manifest.Revision = engine.Revision()
	}
	out := &Built{Engine: engine}
	var keys *bundle.VerificationConfig
	if o.Signing != nil {
		var warning string
		if keys, warning, err = o.Signing.sign(&b); err != nil {
			return nil, err
		}
		if warning != "" {
			out.Warnings = append(out.Warnings, warning)
		}
	}
	var w bytes.Buffer
	if err := bundle.NewWriter(&w).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		return nil, err
	}
	out.Archive = w.Bytes()
	if out.Content, err = readArchive(out.Archive, keys, defaultMaxBytes); err != nil {
		return nil, fmt.Errorf("the bundle that was made cannot be read back: %w", err)
	}
	for _, name := range ignored(entries) {
		out.Warnings = append(out.Warnings, name+" is left out: data in a bundle is named data.json or data.yaml; name it with --data instead")
	}
	for _, w := range engine.Warnings() {
		if w.Kind != opa.Annotations { // whether they count is the gateway's to know
			out.Warnings = append(out.Warnings, w.String())
		}
	}
	return out, nil
}

// sign signs a bundle, and returns what verifies it.
func (s *Signing) sign(b *bundle.Bundle) (keys *bundle.VerificationConfig, warning string, err error) {
	id, alg := s.KeyID, s.Algorithm
	if id == "" {
		id = defaultKeyID
	}
	if alg == "" {
		alg = defaultAlg
	}
	if !slices.Contains(algorithms, alg) {
		return nil, "", fmt.Errorf("there is no signing algorithm %s; there are %s", alg, strings.Join(algorithms, ", "))
	}
	info, err := os.Stat(s.KeyFile)
	if err != nil {
		return nil, "", fmt.Errorf("signing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		warning = fmt.Sprintf("the signing key %s has mode %04o, so others can sign with it: chmod 600 %s", s.KeyFile, mode, s.KeyFile)
	}
	key, err := readBounded(s.KeyFile, maxKey)
	if err != nil {
		return nil, "", fmt.Errorf("signing key: %w", err)
	}
	public, err := publicOf(key, alg)
	if err != nil {
		return nil, "", fmt.Errorf("signing key %s: %w", s.KeyFile, err)
	}
	file, err := filepath.Abs(s.KeyFile) // OPA takes a path or the key itself, and tells them apart by looking
	if err != nil {
		return nil, "", err
	}
	claims := ""
	if s.Scope != "" { // OPA takes claims from a file alone
		text, err := json.Marshal(map[string]string{"scope": s.Scope})
		if err != nil {
			return nil, "", err
		}
		f, err := os.CreateTemp("", "mcpgw-claims-")
		if err != nil {
			return nil, "", err
		}
		claims = f.Name()
		defer func() { _ = os.Remove(claims) }() // it holds no secret
		_, err = f.Write(text)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, "", err
		}
	}
	if err := b.GenerateSignature(bundle.NewSigningConfig(file, alg, claims), id, true); err != nil {
		return nil, "", fmt.Errorf("signing: %w", err)
	}
	keys = bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{id: {Key: string(public), Algorithm: alg}}, "", s.Scope, nil)
	return keys, warning, nil
}

// publicOf is what verifies: the public half of a private key as PEM, or the secret itself.
func publicOf(key []byte, alg string) ([]byte, error) {
	if strings.HasPrefix(alg, "HS") {
		return key, checkSecret(key)
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("is no PEM file")
	}
	var private any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("holds a PEM block of type %s, not a private key without a passphrase", block.Type)
	}
	if err != nil {
		return nil, err
	}
	var public crypto.PublicKey
	switch k := private.(type) {
	case *rsa.PrivateKey:
		public = &k.PublicKey
	case *ecdsa.PrivateKey:
		public = &k.PublicKey
	default:
		return nil, errors.New("is neither an RSA nor an ECDSA key")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return text, checkPublic(text, alg)
}
