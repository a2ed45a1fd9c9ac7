// Package cni is the plugin that container runtimes call when a pod's network is
// to be made or taken away: CNI 1.1, at the name warren-cni of Warren's program.
//
// It runs on the node for each call and keeps nothing in memory. What it keeps
// is in its state directory: one file for each attachment, which is written
// before anything is made and removed after everything is gone, so that who is
// killed in between leaves nothing that DEL and GC do not find. Calls for
// different containers run at the same time; locks of files set them apart.
package cni
