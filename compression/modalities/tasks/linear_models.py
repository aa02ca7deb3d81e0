"""Linear models on fixed features. Functions import scikit-learn, because loading SciPy takes a second."""

import numpy as np
import numpy.typing as npt

MOST_ITERATIONS = 500
"""Iterations of LogisticRegression; the L2 strengths are scikit-learn's defaults, on standardized features."""
Numbers = npt.NDArray[np.float64]


def class_scores(features: npt.ArrayLike, labels: npt.ArrayLike, asked: npt.ArrayLike) -> Numbers:
    """Fit multinomial logistic regression -> log-probabilities (others, largest id + 1), −inf if no row has the id."""
    wanted, others = np.asarray(labels), np.asarray(asked)
    known = np.unique(wanted)
    scores = np.full((len(others), int(known.max()) + 1), -np.inf)
    if len(known) == 1:
        scores[:, known[0]] = 0.0
        return scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS)).fit(np.asarray(features), wanted)
    scores[:, known] = model.predict_log_proba(others)
    return scores


def numbers(features: npt.ArrayLike, labels: npt.ArrayLike, asked: npt.ArrayLike) -> Numbers:
    """Fit ridge regression; return predictions for other rows. features: (rows, n), labels: (rows,) -> (others, 1)."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge()).fit(np.asarray(features), np.asarray(labels))
    found: Numbers = model.predict(np.asarray(asked))[:, None]
    return found
