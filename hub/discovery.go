package hub

import (
	"net/http"

	"warren/api"
)

// The hub as an API of the cluster. It has no resources: nobody who looks for
// objects to collect, to list or to delete finds any.
const (
	apiGroup   = "hub.warren.dev"
	apiVersion = "v1"
)

type groupVersion struct {
	GroupVersion string `json:"groupVersion"`
	Version      string `json:"version"`
}

type group struct {
	Kind             string         `json:"kind,omitempty"`
	APIVersion       string         `json:"apiVersion,omitempty"`
	Name             string         `json:"name"`
	Versions         []groupVersion `json:"versions"`
	PreferredVersion groupVersion   `json:"preferredVersion"`
}

type groupList struct {
	Kind       string  `json:"kind"`
	APIVersion string  `json:"apiVersion"`
	Groups     []group `json:"groups"`
}

type resourceList struct {
	Kind         string     `json:"kind"`
	APIVersion   string     `json:"apiVersion"`
	GroupVersion string     `json:"groupVersion"`
	Resources    []struct{} `json:"resources"`
}

// discovery are the paths by which clients of Kubernetes find out what an API
// has. Of objects there is no description: paths of it are not found, which
// the API server takes for that.
func discovery() []api.Route {
	version := groupVersion{apiGroup + "/" + apiVersion, apiVersion}
	ours := group{Name: apiGroup, Versions: []groupVersion{version}, PreferredVersion: version}
	alone := ours
	alone.Kind, alone.APIVersion = "APIGroup", "v1"
	var list []api.Route
	for _, d := range []struct {
		path string
		doc  any
	}{
		{"/apis", groupList{Kind: "APIGroupList", APIVersion: "v1", Groups: []group{ours}}},
		{apiPath, alone},
		{apiPath + "/" + apiVersion, resourceList{Kind: "APIResourceList", APIVersion: "v1", GroupVersion: version.GroupVersion, Resources: []struct{}{}}},
	} {
		list = append(list, api.Route{Pattern: d.path, Params: []string{"timeout"}, Handle: func(w http.ResponseWriter, _ *http.Request, _ api.Query) error {
			return api.WriteJSON(w, d.doc)
		}})
	}
	return list
}
