// Package catalog holds what is served: every item of every server, the public name it has on each
// endpoint, and the bytes a list shows for it.
//
// It works in three steps, each a pure function over immutable values. [NewItem] reads one definition
// as a server sent it and refuses what a client could not accept. A [Source] is what one server is
// known to offer. [Build] merges sources into a [Catalog], one [View] an endpoint: it gives names,
// settles who owns a name that two servers claim, and prepares JSON fragments, so that a list is
// joined from ready bytes and never encoded.
//
// Beside that it tells policy what to think of an item: a [Lock] holds the definitions that somebody has
// agreed to, against which items drift, and findings say what in an item's words may deceive a reader.
//
// Nothing here does I/O, and nothing here knows whether a server is up: a server that is away keeps
// its last items, so names never depend on who answers.
package catalog
