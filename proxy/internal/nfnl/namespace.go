package nfnl

// InNamespace calls f on a thread that is in a network namespace; netns < 0 is the
// current one. What f opens stays in the namespace.
func InNamespace(netns int, f func() error) error { return inNamespace(netns, f) }
