"""New problems in the style of given ones, with solutions that agree: from an endpoint or from a model of one's own."""
