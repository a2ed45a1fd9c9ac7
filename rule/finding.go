package rule

import (
	"cmp"
	"slices"
	"strings"
)

// A Code names what a [Finding] is about. Those that begin with LOAD are
// Falco's, with Falco's meaning.
type Code string

// The codes of errors: rules with one are not used, and neither is anything
// else of the files.
const (
	ErrFileRead         Code = "LOAD_ERR_FILE_READ"
	ErrYAMLParse        Code = "LOAD_ERR_YAML_PARSE"
	ErrYAMLValidate     Code = "LOAD_ERR_YAML_VALIDATE"
	ErrCompileCondition Code = "LOAD_ERR_COMPILE_CONDITION"
	ErrCompileOutput    Code = "LOAD_ERR_COMPILE_OUTPUT"
	ErrValidate         Code = "LOAD_ERR_VALIDATE"
)

// The codes of warnings that Falco gives too.
const (
	WarnUnknownSource      Code = "LOAD_UNKNOWN_SOURCE"
	WarnUnsafeNA           Code = "LOAD_UNSAFE_NA_CHECK"
	WarnNoEvtType          Code = "LOAD_NO_EVTTYPE"
	WarnUnknownFilter      Code = "LOAD_UNKNOWN_FILTER"
	WarnUnusedMacro        Code = "LOAD_UNUSED_MACRO"
	WarnUnusedList         Code = "LOAD_UNUSED_LIST"
	WarnUnknownItem        Code = "LOAD_UNKNOWN_ITEM"
	WarnDeprecated         Code = "LOAD_DEPRECATED_ITEM"
	WarnAppendNoValues     Code = "LOAD_APPEND_NO_VALUES"
	WarnExceptionNotUnique Code = "LOAD_EXCEPTION_NAME_NOT_UNIQUE"
	WarnMacroName          Code = "LOAD_INVALID_MACRO_NAME"
	WarnListName           Code = "LOAD_INVALID_LIST_NAME"
	WarnCondition          Code = "LOAD_COMPILE_CONDITION"
	WarnUnknownKey         Code = "LOAD_UNKNOWN_KEY"
)

// The codes of what Falco does not look for.
const (
	WarnNeverMatches Code = "WARREN_NEVER_MATCHES"
	WarnShadowed     Code = "WARREN_SHADOWED"
	WarnDuplicateKey Code = "WARREN_DUPLICATE_KEY"
	WarnCost         Code = "WARREN_COST"
)

var codeText = map[Code]string{
	ErrFileRead:            "File read error",
	ErrYAMLParse:           "YAML parse error",
	ErrYAMLValidate:        "Error validating internal structure of YAML file",
	ErrCompileCondition:    "Error compiling condition",
	ErrCompileOutput:       "Error compiling output",
	ErrValidate:            "Error validating rule/macro/list/exception objects",
	WarnUnknownSource:      "Unknown event source",
	WarnUnsafeNA:           "Unsafe <NA> comparison in condition",
	WarnNoEvtType:          "Condition has no event-type restriction",
	WarnUnknownFilter:      "Unknown field or event-type in condition or output",
	WarnUnusedMacro:        "Unused macro",
	WarnUnusedList:         "Unused list",
	WarnUnknownItem:        "Unknown rules file item",
	WarnDeprecated:         "Used deprecated item",
	WarnAppendNoValues:     "Overriding/appending with no values",
	WarnExceptionNotUnique: "Multiple exceptions defined with the same name",
	WarnMacroName:          "Invalid macro name",
	WarnListName:           "Invalid list name",
	WarnCondition:          "Warning in rule condition",
	WarnUnknownKey:         "Unknown key in item definition",
	WarnNeverMatches:       "Rule that can never match",
	WarnShadowed:           "Rule that another says more of",
	WarnDuplicateKey:       "Key that stands twice",
	WarnCost:               "Condition that costs more than it seems",
}

// IsError reports whether a code is that of an error.
func (c Code) IsError() bool { return strings.HasPrefix(string(c), "LOAD_ERR_") }

// Text returns what the code means in a few words; for Falco's codes, Falco's.
func (c Code) Text() string { return codeText[c] }

// A Finding is what is to be said about a place in a rule file.
type Finding struct {
	Code  Code
	Place Place
	// Item is whose it is: rule, macro or list, and its name; "" for none.
	Item, Name string
	Msg        string
	Hint       string // what to do about it; "" where there is nothing to say
	// Excerpt is the line of the place and a second one with ^ under what the
	// finding is about, safe to show on a terminal; "" where there is none.
	Excerpt string
}

// IsError reports whether the finding keeps the files from being used.
func (f *Finding) IsError() bool { return f.Code.IsError() }

// HasErrors reports whether any of the findings is an error.
func HasErrors(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.IsError() })
}

// sortFindings brings findings into the order of files and places.
func sortFindings(fs []Finding, files []File) {
	order := map[string]int{}
	for i, f := range files {
		if _, ok := order[f.Name]; !ok {
			order[f.Name] = i
		}
	}
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.Place.File], order[b.Place.File]), cmp.Compare(a.Place.Line, b.Place.Line), cmp.Compare(a.Place.Column, b.Place.Column))
	})
}
