package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/bundle"
	"github.com/mcpgw/mcpgw/pkg/opa"
)

// bundleReport is what is told of a bundle that was built or verified.
type bundleReport struct {
	File     string   `json:"file"`
	Revision string   `json:"revision"` // of the manifest
	Policy   string   `json:"policy"`   // as a gateway will show it in spans and log lines
	Signed   bool     `json:"signed"`   // and verified
	Modules  int      `json:"modules"`
	Roots    []string `json:"roots"`
	Bytes    int      `json:"bytes"`
	Warnings []string `json:"warnings"`
}

func (r *bundleReport) print(w io.Writer, verb string) error {
	for _, f := range r.Warnings {
		fmt.Fprintln(w, "warning: "+f)
	}
	signed := "not signed"
	if r.Signed {
		signed = "signature verified"
	}
	_, err := fmt.Fprintf(w, "%s %s: revision %s, policy %s, %d modules, %d bytes, %s\n", verb, r.File, r.Revision, r.Policy, r.Modules, r.Bytes, signed)
	return err
}

func policyBundleCommand() *cobra.Command {
	var o bundle.BuildOptions
	var s bundle.Signing
	var file string
	var out output
	c := &cobra.Command{
		Use:   "bundle DIR",
		Short: "Make an OPA bundle of a policy directory, signed if a key is given",
		Long: `Bundle checks the policy in DIR as a gateway checks it, and writes it as an OPA bundle. Rego tests and hidden files are left out.
Data are the files named data.json or data.yaml, each below the names of its directories, and what --data names. A .manifest at the top of
DIR is kept, with its roots. Without --revision, and without one in .manifest, the revision is a digest of policy and data.

The same input gives the same bytes, unless the algorithm signs with random numbers (ES, PS). Keys are those of opa sign:
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem`,
		Example: "  mcpgw policy bundle policy --data grants.yaml -o bundle.tar.gz\n" +
			"  mcpgw policy bundle policy -o bundle.tar.gz --revision 2026-11-25 --signing-key key.pem\n" +
			"  mcpgw policy bundle verify bundle.tar.gz --key public.pem",
		Args: between(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			o.Dir = args[0]
			if info, err := os.Stat(o.Dir); err != nil || !info.IsDir() {
				return fmt.Errorf("%s is no directory; name that of the .rego files", o.Dir)
			}
			if file == "" {
				return errors.New("no file to write to: name it with -o, as in -o bundle.tar.gz")
			}
			if info, err := os.Stat(file); err == nil && info.IsDir() {
				return fmt.Errorf("%s is a directory; name a file with -o, as in -o bundle.tar.gz", file)
			}
			if s.KeyFile != "" {
				o.Signing = &s
			} else if s.Scope != "" || c.Flags().Changed("signing-alg") || c.Flags().Changed("key-id") {
				return errors.New("--signing-alg, --key-id and --scope need a --signing-key")
			}
			b, err := bundle.Build(o)
			if err != nil {
				return err
			}
			if err := replaceFile(file, b.Archive); err != nil {
				return err
			}
			r := bundleReport{
				File: file, Revision: b.Content.Revision, Policy: b.Engine.Revision(), Signed: b.Content.Signed, Modules: len(b.Content.Modules),
				Roots: b.Content.Roots, Bytes: len(b.Archive), Warnings: append([]string{}, b.Warnings...),
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return r.print(w, "wrote") })
		},
	}
	c.Flags().StringVarP(&file, "out", "o", "", "file to write")
	c.Flags().StringArrayVar(&o.DataFiles, "data", nil, "a data file, JSON or YAML, beside DIR's own; may be repeated")
	c.Flags().StringVar(&o.Revision, "revision", "", "revision of the manifest")
	c.Flags().StringVar(&o.Entrypoint, "entry-point", "", "the configuration's policy.entry_point, where it has one")
	c.Flags().StringVar(&s.KeyFile, "signing-key", "", "PEM file of the private key, or file of the secret of an HS algorithm")
	c.Flags().StringVar(&s.Algorithm, "signing-alg", "RS256", "signing algorithm: RS, PS, ES or HS with 256, 384 or 512")
	c.Flags().StringVar(&s.KeyID, "key-id", "default", "what the signature calls its key")
	c.Flags().StringVar(&s.Scope, "scope", "", "what the signature names as its scope")
	out.named(c, "") // -o is the file, as in opa build
	c.AddCommand(policyBundleVerifyCommand())
	return c
}

func policyBundleVerifyCommand() *cobra.Command {
	var key bundleKey
	var entry string
	var out output
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a bundle as a gateway would before it counts",
		Long: `Verify reads a bundle, checks its signature with --key, and compiles its policy. Without --key only an unsigned bundle is taken, as
by a gateway without verification.`,
		Example: "  mcpgw policy bundle verify bundle.tar.gz --key public.pem\n  mcpgw policy bundle verify bundle.tar.gz --key public.pem --scope live --output json",
		Args:    between(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := key.verification(c)
			if err != nil {
				return err
			}
			if info, err := os.Stat(args[0]); err == nil && info.IsDir() {
				return fmt.Errorf("%s is a directory; name the .tar.gz file that mcpgw policy bundle made of it", args[0])
			}
			files, err := opa.ReadFiles(args[0]) // bounded, and no pipe
			if err != nil {
				return err
			}
			archive := files[0].Text
			content, err := bundle.Read(archive, bundle.Options{Verification: keys})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], withKey(err, keys))
			}
			engine, err := opa.Load(opa.Options{Modules: content.Modules, Data: content.Data, Entrypoint: entry})
			if err != nil {
				return err
			}
			r := bundleReport{
				File: args[0], Revision: content.Revision, Policy: engine.Revision(), Signed: content.Signed, Modules: len(content.Modules),
				Roots: content.Roots, Bytes: len(archive), Warnings: []string{},
			}
			for _, w := range engine.Warnings() {
				if w.Kind != opa.Annotations { // whether they count is the gateway's to know
					r.Warnings = append(r.Warnings, w.String())
				}
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return r.print(w, "good") })
		},
	}
	key.flags(c)
	c.Flags().StringVar(&entry, "entry-point", "", "the configuration's policy.entry_point, where it has one")
	out.flag(c)
	return c
}

// bundleKey are the flags that say how a bundle must be signed.
type bundleKey struct{ v bundle.Verification }

func (k *bundleKey) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.v.KeyFile, "key", "", "PEM file of the public key that the bundle is signed for, or file of the secret of an HS algorithm")
	f.StringVar(&k.v.Algorithm, "alg", "RS256", "algorithm of the signature")
	f.StringVar(&k.v.KeyID, "key-id", "default", "what the signature must call its key")
	f.StringVar(&k.v.Scope, "scope", "", "what the signature must name as its scope")
}

// verification is nil where only an unsigned bundle counts.
func (k *bundleKey) verification(c *cobra.Command) (*bundle.Verification, error) {
	switch {
	case k.v.KeyFile != "":
		return &k.v, nil
	case k.v.Scope != "" || c.Flags().Changed("alg") || c.Flags().Changed("key-id"):
		return nil, errors.New("--alg, --key-id and --scope need a --key")
	}
	return nil, nil
}

// withKey says how to go on where a bundle was refused because no key was named: the reason itself speaks of a configuration.
func withKey(err error, v *bundle.Verification) error {
	if err == nil || v != nil || !strings.Contains(err.Error(), "verification key not provided") {
		return err
	}
	return errors.New("the bundle is signed: name the public key with --key")
}
