// Package bundle brings policies as OPA bundles: from a directory or a file, from an HTTP server with ETag and long polling, from an
// OCI registry. It fetches with OPA's own downloaders and reads and verifies with OPA's own reader.
//
// A [Source] is one place that bundles come from. [Source.Once] looks there once, [Source.Run] keeps looking. Both hand a new bundle to a
// callback that has the last word: what it refuses is told in [Status], does not count, and is tried again at the next look. A bundle
// reaches the callback only after its signature was verified.
//
// What OPA leaves open is closed here:
//
//   - Its size limit holds for each file; ours holds for everything that a bundle unpacks to, and for what is read from the network.
//   - It reads the files of an archive and passes over links; here a name that leaves the archive, a link and a doubled name refuse.
//   - It asks servers for delta bundles as well, which carry no signature; they are refused, and so are bundles compiled to Wasm or a plan.
//   - It remembers the ETag of a bundle that was refused; here only that of one which was taken.
//   - Its registry client would send the token to whatever host a redirect names; here it goes to the configured one alone.
//
// [Build] makes a bundle and signs it, [Read] reads one that lies in memory.
package bundle
