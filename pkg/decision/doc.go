// Package decision keeps, writes and compares what policy has ruled: the rulings of the last minutes in memory, so that each can be
// explained ([Recent]); the log of all of them; and what another policy would have ruled.
//
// It hears of a ruling on the way of a call, after the ruling and before anything is done about it, so nothing here waits there. What
// it is handed is a copy that nobody changes. It knows the words of package policy, and no configuration.
package decision
