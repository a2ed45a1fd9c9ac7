// Package netdump lists the kernel's links, addresses, routes and neighbours whole:
// where they change while they are read, they are read again.
package netdump

import (
	"errors"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// tries is how often a list is read that changes meanwhile. A node on which pods come
// and go without a pause has some quiet microseconds in between.
const tries = 10

// Whole returns what list does. While that says that the list has changed as it was
// read, it is called again, ten times in all; the error is that of the last.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// Addrs returns the addresses of a link, or with none all, of the thread's network
// namespace.
func Addrs(link netlink.Link) ([]netlink.Addr, error) {
	return Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
}

// Filters returns the filters of a link below parent.
func Filters(link netlink.Link, parent uint32) ([]netlink.Filter, error) {
	return Whole(func() ([]netlink.Filter, error) { return netlink.FilterList(link, parent) })
}

// Handle opens a handle of the thread's network namespace for requests of the
// families: its lists are whole.
func Handle(families ...int) (*netlink.Handle, error) {
	return HandleAt(netns.None(), families...)
}

// HandleAt is Handle for the network namespace ns.
func HandleAt(ns netns.NsHandle, families ...int) (*netlink.Handle, error) {
	return netlink.NewHandleWithOptions(netlink.HandleOptions{RetryInterrupted: true, NetNS: &ns}, families...)
}
